"""The local runner: jobs one after the other in this process, each written while the next one is decoded."""

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from cdgen.builders.jobs import Job
from cdgen.builders.worker import Context, decode_job, write_job
from cdgen.storage import Receipt

if TYPE_CHECKING:
    from cdgen.decode.engine import Engine


def run_jobs(
    jobs: Iterable[Job],
    context: Context,
    engine: "Engine",
    *,
    on_tokens: Callable[[int], None],
    on_shard: Callable[[Receipt], None],
) -> None:
    """Do `jobs` in order. At most one job waits to be written, so memory does not grow with their number.

    Args:
        jobs: what is left to do.
        context: what they share.
        engine: the two models.
        on_tokens: told how many tokens were drawn since it was last called.
        on_shard: told of every finished shard.
    """
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="cdgen-write") as writer:
        writing: Future[Receipt] | None = None
        for job in jobs:
            decoded = decode_job(job, context, engine, on_tokens)
            if writing is not None:
                on_shard(writing.result())
            writing = writer.submit(write_job, job, context, decoded)
        if writing is not None:
            on_shard(writing.result())
