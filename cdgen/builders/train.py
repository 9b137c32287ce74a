"""`cdgen train`: a run file becomes a run folder.

    run.json       what the run is, written last of all: a folder without one is unfinished
    losses.csv     the training loss of every step
    step-000500/   a model folder of transformers with its tokenizer, one per checkpoint, there once it is whole
    work/          what only a resume needs, and the lock

The order of the data is the stream's, so the same command goes on after any crash with the same numbers.
"""

import platform
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdgen import __version__
from cdgen.builders.numeric_class import training_class
from cdgen.builders.run_inputs import (
    RunInputs,
    run_inputs,
    run_stream,
    sections,
    share_read,
    sources_read,
)
from cdgen.corpus import Corpus
from cdgen.errors import UsageError
from cdgen.progress import Progress, Quiet
from cdgen.recipes.runs import RunFile, load_run
from cdgen.storage import atomic_write, canonical_json, hold, parse_json, remove_temporaries
from cdgen.training.record import (
    CorpusRead,
    HeldOutRead,
    RunRecord,
    read_record,
    write_losses,
    write_record,
)

if TYPE_CHECKING:
    from cdgen.streaming.dataset import BlockDataset
    from cdgen.training.fit import Fitted
    from cdgen.training.perplexity import HeldOut
    from cdgen.training.ranks import Ranks

BEGUN = Path("work/run.json")
_TRAINING = Path("work/training")


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A finished run, and what this call did for it.

    Attributes:
        out: the run folder.
        record: what run.json says.
        was_finished: it was there already.
        resumed_from: the step that this call went on from; 0 for none.
        seconds: that this call trained.
        is_first: whether this process is the one that writes and reports.
    """

    out: Path
    record: RunRecord
    was_finished: bool
    resumed_from: int
    seconds: float
    is_first: bool = True


def train(
    run: str | Path | RunFile,
    out: str | Path | None = None,
    *,
    progress: Progress | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Trained:
    """Train a run file's model, or finish a training that was interrupted. Under torchrun all processes call this.

    Args:
        run: a checked run file, or the path of one.
        out: the run folder; runs/<name> by default.
        progress: told of every step.
        clock: seconds, for the speed in the report.

    Raises:
        UsageError: a wrong run file, a corpus that cannot serve it, or a folder with another run; nothing is written.
        BuildError: a training that could not be finished; doing the same again goes on from there.
    """
    file = run if isinstance(run, RunFile) else load_run(run)
    folder = Path(out) if out is not None else Path("runs") / file.run.name
    inputs = run_inputs(file)
    check_folder(folder, inputs)
    finished = _finished(folder, inputs)
    if finished is not None:
        return finished
    blocks = run_stream(inputs)

    from cdgen.training.fit import micro_batch
    from cdgen.training.ranks import join_ranks

    ranks = join_ranks()
    try:
        micro_batch(file.run.train, ranks.world_size)
    except UsageError as error:
        raise UsageError(f"{file.at(('train', 'micro_batch_tokens'))}: {error}") from None
    with _held(folder, file, ranks):
        return _trained(
            folder, inputs, blocks, progress=progress or Quiet(), ranks=ranks, clock=clock
        )


def check_folder(folder: Path, inputs: RunInputs) -> None:
    """Refuse a folder that holds something else. Raises UsageError."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder}: is a file; choose another folder with --out")
    begun, record = folder / BEGUN, read_record(folder)
    if begun.is_file():
        theirs = parse_json(begun.read_bytes(), begun)["run"]
        other = theirs != inputs.content and _difference(theirs, inputs.content)
    elif record is not None:  # a copy, without work/
        other = record.digest != inputs.digest and "its digest is another"
    elif folder.is_dir() and {path.name for path in folder.iterdir()} - {"work"}:
        raise UsageError(
            f"{folder}: holds files that are not a cdgen run; choose another folder with --out"
        )
    else:
        return
    if other:
        raise UsageError(
            f"{folder}: holds another run: {other}; choose another folder with --out, or remove this one"
        )


def _difference(theirs: dict[str, Any], ours: dict[str, Any]) -> str:
    """The first field that differs."""
    for name, value in ours.items():
        other = theirs.get(name)
        if other != value and isinstance(value, dict) and isinstance(other, dict):
            return f"{name}.{_difference(other, value)}"
        if other != value:
            shown = isinstance(value, int | float) or name not in ("corpus", "held_out", "start")
            return f"{name} is {other} there, {value} here" if shown else f"its {name} is another"
    return "a field that this cdgen does not know"


def _finished(folder: Path, inputs: RunInputs) -> Trained | None:
    """The run that is there already, described anew where its names have changed."""
    record = read_record(folder)
    if record is None or any(
        not (record.folder(folder, kept.step) / "model.safetensors").is_file()
        for kept in record.checkpoints
    ):
        return None
    run = inputs.file.run
    named = replace(
        record, name=run.name, condition=run.condition_name, description=run.description
    )
    if named != record:
        write_record(folder, named)
    return Trained(out=folder, record=named, was_finished=True, resumed_from=0, seconds=0.0)


@contextmanager
def _held(folder: Path, file: RunFile, ranks: "Ranks") -> Iterator[None]:
    """The first process holds the folder for all of them."""
    if not ranks.is_first:
        yield
        return
    with hold(folder, f"train {file.run.name}"):
        remove_temporaries(folder)
        yield


def _trained(
    folder: Path,
    inputs: RunInputs,
    blocks: "BlockDataset",
    *,
    progress: Progress,
    ranks: "Ranks",
    clock: Callable[[], float],
) -> Trained:
    import torch

    from cdgen.training.fit import fit
    from cdgen.training.steps import Stream

    run = inputs.file.run
    classes = _begin(folder, inputs, ranks)
    if len(classes) > 1 and ranks.is_first:
        progress.say("another kind of machine began this run; run.json will name both")
    torch.set_num_threads(run.train.threads)
    started = clock()
    steps = run.train.steps
    with _quiet_unless_first(progress, ranks).stage(
        f"train {run.name}", total=steps, unit="step"
    ) as advance:
        fitted = fit(
            _model(inputs),
            run.train,
            Stream(blocks),
            _held_out(inputs.held_out, run.train.context),
            work=folder / _TRAINING,
            kept=folder,
            tokenizer_files=_tokenizer_files(inputs.corpus),
            advance=advance,
            compiled=run.train.compile,
            ranks=ranks,
        )
    record = _record(inputs, blocks, fitted, classes)
    if ranks.is_first:
        write_losses(folder, fitted.losses)
        write_record(folder, record)
        shutil.rmtree(folder / _TRAINING)
    ranks.wait()
    return Trained(
        out=folder,
        record=record,
        was_finished=False,
        resumed_from=fitted.resumed_from,
        seconds=clock() - started,
        is_first=ranks.is_first,
    )


def _quiet_unless_first(progress: Progress, ranks: "Ranks") -> Progress:
    return progress if ranks.is_first else Quiet()


def _begin(folder: Path, inputs: RunInputs, ranks: "Ranks") -> tuple[dict[str, str], ...]:
    """Note which run this folder is of, and the kinds of machines that have trained it."""
    begun = folder / BEGUN
    here = dict(sorted(training_class(inputs.file.run.train).items()))
    noted: list[dict[str, str]] = []
    if ranks.is_first:
        if begun.is_file() and (folder / _TRAINING).is_dir():
            noted = parse_json(begun.read_bytes(), begun)["classes"]
        if here not in noted:
            noted.append(here)
        atomic_write(begun, canonical_json({"run": inputs.content, "classes": noted}))
    ranks.wait()
    return tuple(noted)


def _model(inputs: RunInputs) -> Any:
    import torch

    from cdgen.training.pretrain import Vocabulary, given_model, new_model

    run, tokenizer = inputs.file.run, inputs.tokenizer
    if inputs.start is not None:
        torch.manual_seed(run.train.seed)
        return given_model(inputs.start, run.train)
    ends = {"bos_id": tokenizer.bos_id, "eos_id": tokenizer.eos_id}
    return new_model(run.train, Vocabulary(size=tokenizer.vocab_size, **ends))


def _held_out(corpus: Corpus, context: int) -> "HeldOut":
    """The eval split, streamed from its shards."""
    from cdgen.streaming.open import blocks
    from cdgen.training.perplexity import HeldOut, StreamTokens

    read = blocks(corpus, split="eval", block=context, shuffle=False)
    num_text_bytes = sum(shard.num_text_bytes for shard in corpus.shards("real", "eval"))
    return HeldOut(StreamTokens(read), num_text_bytes)


def _tokenizer_files(corpus: Corpus) -> dict[str, bytes]:
    return {
        path.name: path.read_bytes() for path in sorted((corpus.folder / "tokenizer").iterdir())
    }


def _record(
    inputs: RunInputs, blocks: "BlockDataset", fitted: "Fitted", classes: tuple[dict[str, str], ...]
) -> RunRecord:
    run = inputs.file.run
    spec, sources = sections(inputs.file, "mix", "train"), sources_read(blocks, inputs.num_tokens)
    spec["start"] = {"sha256": inputs.start_sha256} if inputs.start else None
    return RunRecord(
        name=run.name,
        condition=run.condition_name,
        description=run.description,
        seed=run.train.seed,
        digest=inputs.digest,
        corpus=CorpusRead(**_named(inputs.corpus)),
        held_out=HeldOutRead(
            **_named(inputs.held_out),
            shards=sha256("\n".join(inputs.held_out_shards).encode()).hexdigest(),
        ),
        synthetic_share=share_read(blocks, sources),
        tokens=inputs.num_tokens,
        sources=sources,
        spec=spec,
        checkpoints=fitted.checkpoints,
        versions=_versions(),
        numeric_classes=classes,
    )


def _named(corpus: Corpus) -> dict[str, str]:
    return {"name": corpus.manifest.name, "digest": corpus.manifest.digest}


def _versions() -> dict[str, str]:
    libraries = {
        name: version(name).split("+")[0] for name in ("torch", "transformers", "accelerate")
    }
    return {"cdgen": __version__, "python": platform.python_version(), **libraries}
