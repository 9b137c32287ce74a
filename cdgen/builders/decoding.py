"""The decode stage: every job of the build that has no receipt yet, by the runner that the profile names."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cdgen.builders.events import Recorded
from cdgen.builders.jobs import Job, jobs
from cdgen.builders.local import run_jobs
from cdgen.builders.model_stage import Models
from cdgen.builders.preflight import LookAt, measure
from cdgen.builders.profile import Profile
from cdgen.builders.stages import Build
from cdgen.builders.worker import Context
from cdgen.errors import BuildError
from cdgen.progress import Advance
from cdgen.storage import Receipt

if TYPE_CHECKING:
    from cdgen.decode.engine import Engine


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoding:
    """What a runner is asked to do.

    Attributes:
        work, context, models: of the build.
        todo: the jobs without a receipt, in order.
        numeric_class: of the shards that are there, where workers must be of it; None = no matter.
        before: has the models looked at first, and may stop the build (the preflight).
        log: told of everything.
        clock: seconds.
        on_shard: told of every shard that lies in the build's own folder.
        total: tokens that all jobs draw.
        done: receipts by name, filled by `finished`.
    """

    work: Build
    context: Context
    models: Models
    todo: Sequence[Job]
    numeric_class: Mapping[str, str] | None
    before: Callable[[LookAt], object] | None
    log: Recorded
    clock: Callable[[], float]
    on_shard: Callable[[Receipt], None]
    total: int
    done: dict[str, Receipt]

    def size(self, job: Job) -> int:
        """Tokens that a job draws."""
        return _drawn([job], self.context)

    @contextmanager
    def counted(self) -> Iterator[Advance]:
        """The stage of the build in which tokens are counted; those of finished jobs are."""
        with self.log.stage("decode", total=self.total, unit="token") as advance:
            advance(self.total - _drawn(self.todo, self.context))
            yield advance

    def here(self, receipt: Receipt) -> None:
        """Note a delivered shard that lies in the build's own folder."""
        self.finished(receipt)
        self.on_shard(receipt)

    def finished(self, receipt: Receipt, **who: str) -> None:
        """Note a delivered shard."""
        self.done[receipt.name] = receipt
        self.log.event("shard", name=receipt.name, tokens=receipt.num_tokens, **who)


def decode_stage(
    work: Build,
    context: Context,
    models: Models,
    log: Recorded,
    *,
    accept_class: bool,
    clock: Callable[[], float],
    on_shard: Callable[[Receipt], None],
    before: Callable[[LookAt], object] | None = None,
    profile: Profile | None = None,
) -> tuple[list[Receipt], float]:
    """Decode what is missing.

    Args:
        work, context, models: of the build.
        log: told of everything.
        accept_class: go on with shards of another numeric class.
        clock: seconds.
        on_shard: told of shards that lie in the build's own folder, as early as that is known.
        before: has the models looked at first, and may stop the build (the preflight).
        profile: where it is decoded; in this process by default.

    Returns:
        The receipts of all synthetic shards, in order; tokens drawn per second, 0 when all were there.

    Raises:
        BuildError: shards of another numeric class are there, and `accept_class` is false.
    """
    done = _done(work)
    on_ray = profile is not None and profile.engine == "ray"
    wanted = _class(done, context, on_ray=on_ray)
    if not accept_class:
        _refuse_other_classes(done.values(), wanted or {})
    if work.in_place:
        for kept in done.values():
            on_shard(kept)
    num_prefixes = len(context.prefixes)
    every = list(jobs(num_prefixes, context.generate, decode_digest=work.digests.decode))
    todo = [job for job in every if job.shard not in done]
    work.place.withdraw(job.shard for job in todo)
    log.event("plan", shards=len(every), done=len(every) - len(todo))
    if not todo:
        return [done[job.shard] for job in every], 0.0
    decoding = Decoding(
        work=work,
        context=context,
        models=models,
        todo=todo,
        numeric_class=None if accept_class else wanted,
        before=before,
        log=log,
        clock=clock,
        on_shard=on_shard,
        total=_drawn(every, context),
        done=done,
    )
    started = clock()
    if profile is not None and on_ray:
        from cdgen.builders.ray.decoding import decode_on_ray

        decode_on_ray(decoding, profile)
    else:
        started = _decode_here(decoding)
    return [done[job.shard] for job in every], _drawn(todo, context) / (clock() - started)


def _decode_here(decoding: Decoding) -> float:
    """Do the jobs in this process; returns when the first one was begun."""
    engine = open_models(decoding)
    decoding.log.say(engine.path)
    if decoding.before is not None:
        recipe = decoding.work.recipe
        decoding.before(lambda look, step: measure(engine, recipe, look, on_step=step))
    started = decoding.clock()
    with decoding.counted() as advance:
        run_jobs(
            decoding.todo,
            decoding.context,
            engine,
            decoding.work.place,
            on_tokens=advance,
            on_shard=decoding.here,
        )
    return started


def _class(
    done: Mapping[str, Receipt], context: Context, *, on_ray: bool
) -> Mapping[str, str] | None:
    """The class that shards must have: this process's, or on Ray, where the driver decodes nothing, the first shard's.

    None where the first worker to join will say.
    """
    if not on_ray:
        return context.numeric_class
    return next((receipt.numeric_class for receipt in done.values()), None)


def _done(work: Build) -> dict[str, Receipt]:
    """By name: the receipts of this decode digest whose shards are there."""
    return {
        name: receipt
        for name, receipt in work.place.receipts().items()
        if receipt.digest == work.digests.decode
    }


def _refuse_other_classes(receipts: Iterable[Receipt], here: Mapping[str, str]) -> None:
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


def open_models(decoding: Decoding) -> "Engine":
    """The engine of a build, in this process."""
    from cdgen.builders.engines import open_engine

    work, context, models = decoding.work, decoding.context, decoding.models
    return open_engine(
        work.recipe,
        expert=models.expert.folder,
        amateur=models.amateur.folder if models.amateur else None,
        further=[model.folder for model in models.further],
        vocab_size=context.tokenizer.vocab_size,
        eos_id=context.tokenizer.eos_id,
    )
