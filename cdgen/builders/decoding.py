"""The decode stage: every job of the build that has no receipt yet, by the local runner."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from cdgen.builders.events import Recorded
from cdgen.builders.jobs import Job, jobs
from cdgen.builders.local import run_jobs
from cdgen.builders.stages import Build, Models
from cdgen.builders.worker import Context
from cdgen.errors import BuildError
from cdgen.storage import Receipt

if TYPE_CHECKING:
    from cdgen.decode.engine import Engine


def decode_stage(
    work: Build,
    context: Context,
    models: Models,
    log: Recorded,
    *,
    accept_class: bool,
    clock: Callable[[], float],
    before: Callable[["Engine"], object] | None = None,
) -> tuple[list[Receipt], float]:
    """Decode what is missing; `before` looks at the engine first, and may stop it (the preflight).

    Returns:
        The receipts of all synthetic shards, in order; tokens drawn per second, 0 when all were there.

    Raises:
        BuildError: shards of another numeric class are there, and `accept_class` is false.
    """
    done = _done(work)
    if not accept_class:
        _refuse_other_classes(done.values(), context.numeric_class)
    num_prefixes = len(context.prefixes)
    every = list(jobs(num_prefixes, context.generate, decode_digest=work.digests.decode))
    todo = [job for job in every if job.shard not in done]
    work.place.withdraw(job.shard for job in todo)
    log.event("plan", shards=len(every), done=len(every) - len(todo))
    if not todo:
        return [done[job.shard] for job in every], 0.0

    def on_shard(receipt: Receipt) -> None:
        done[receipt.name] = receipt
        log.event("shard", name=receipt.name, tokens=receipt.num_tokens)

    engine = _engine(work, context, models)
    log.say(engine.path)
    if before is not None:
        before(engine)
    total, left = _drawn(every, context), _drawn(todo, context)
    started = clock()
    with log.stage("decode", total=total, unit="token") as advance:
        advance(total - left)
        run_jobs(todo, context, engine, work.place, on_tokens=advance, on_shard=on_shard)
    return [done[job.shard] for job in every], left / (clock() - started)


def _done(work: Build) -> dict[str, Receipt]:
    """By name: the receipts of this decode digest whose shards are there."""
    return {
        name: receipt
        for name, receipt in work.place.receipts().items()
        if receipt.digest == work.digests.decode
    }


def _refuse_other_classes(receipts: Iterable[Receipt], here: dict[str, str]) -> None:
    for receipt in receipts:
        theirs = {
            key: value for key, value in receipt.numeric_class.items() if here.get(key) != value
        }
        if theirs:
            facts = "; ".join(
                f"{key} {value}, here {here.get(key, 'none')}" for key, value in theirs.items()
            )
            raise BuildError(
                f"{receipt.name} was decoded in another numeric class ({facts}), whose tokens need not "
                "agree with this machine's; finish the build there, or go on with --accept-class"
            )


def _drawn(some: Iterable[Job], context: Context) -> int:
    """Tokens that jobs draw, the padding of their last batches left out."""
    generate = context.generate
    return sum(job.last - job.first for job in some) * generate.completions * generate.new_tokens


def _engine(work: Build, context: Context, models: Models) -> "Engine":
    from cdgen.builders.engines import open_engine

    return open_engine(
        work.recipe,
        expert=models.expert.folder,
        amateur=models.amateur.folder if models.amateur else None,
        further=[model.folder for model in models.further],
        vocab_size=context.tokenizer.vocab_size,
        eos_id=context.tokenizer.eos_id,
    )
