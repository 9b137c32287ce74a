"""The local runner: jobs one after the other in this process, each written while the next one is decoded."""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event
from typing import TYPE_CHECKING

from cdgen.builders.jobs import Job
from cdgen.builders.worker import Context, Decoded, decode_job, write_job
from cdgen.storage import Receipt
from cdgen.storage.places import Folder, Place, staging

if TYPE_CHECKING:
    from cdgen.decode.engine import Engine


def run_jobs(
    jobs: Iterable[Job],
    context: Context,
    engine: "Engine",
    place: Place,
    *,
    on_tokens: Callable[[int], None],
    on_shard: Callable[[Receipt], None],
) -> None:
    """Do `jobs` in order. At most one job waits to be written, so memory does not grow with their number.

    Args:
        jobs: what is left to do.
        context: what they share.
        engine: the two models.
        place: where the shards go.
        on_tokens: told how many tokens were drawn since it was last called.
        on_shard: told of every finished shard.
    """
    stop = Event()
    place = place.until(stop)
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="cdgen-write") as writer:
        writing: Future[Receipt] | None = None
        try:
            for job in jobs:
                decoded = decode_job(job, context, engine, on_tokens)
                if writing is not None:
                    on_shard(writing.result())
                writing = writer.submit(_finished, job, context, decoded, place)
            if writing is not None:
                on_shard(writing.result())
        finally:
            stop.set()  # whoever interrupts a build does not wait for a store that is away


def _finished(job: Job, context: Context, decoded: Sequence[Decoded], place: Place) -> Receipt:
    """Write a job and deliver it; where the place is not this build's own folder, that gets it too, for the mix."""
    with staging(context.out) as root:
        receipt = write_job(job, context, decoded, root)
        for each in dict.fromkeys((place, Folder(context.out))):
            each.deliver(root, receipt)
    return receipt
