"""What a run file reads: corpora, first weights, the stream; found and checked before any work."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdgen.builders.bucket_models import bucket_folder
from cdgen.builders.given import check_vocabulary, config_number
from cdgen.builders.inputs import weights_sha256
from cdgen.builders.snapshots import snapshot
from cdgen.corpus import Corpus, open_corpus
from cdgen.errors import UsageError
from cdgen.recipes.digests import digest
from cdgen.recipes.nodes import FieldPath
from cdgen.recipes.runs import RunFile
from cdgen.storage.cache import default_cache
from cdgen.storage.remote import is_remote
from cdgen.text.tokenizer import FILES as TOKENIZER_FILES
from cdgen.text.tokenizer import Tokenizer
from cdgen.training.record import SourceRead, SyntheticShare

if TYPE_CHECKING:
    from cdgen.streaming.dataset import BlockDataset


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInputs:
    """A run file's corpora and first weights. To find them loads no torch.

    Attributes:
        file: the run file.
        corpus: what is trained on.
        held_out: the corpus whose eval split measures the checkpoints.
        tokenizer: of both.
        start: the folder of the first weights; None for a new model.
        start_sha256: of its configuration and weights; "" for a new model.
    """

    file: RunFile
    corpus: Corpus
    held_out: Corpus
    tokenizer: Tokenizer
    start: Path | None
    start_sha256: str

    @property
    def num_tokens(self) -> int:
        """Tokens that the run trains on."""
        return self.file.run.train.steps * self.file.run.train.batch_tokens

    @property
    def held_out_shards(self) -> list[str]:
        """The hashes of the eval shards that measure the checkpoints."""
        return [shard.sha256 for shard in self.held_out.shards("real", "eval")]

    @property
    def content(self) -> dict[str, Any]:
        """Everything that can change the result but the machine; JSON."""
        return {
            "corpus": self.corpus.manifest.digest,
            "held_out": self.held_out_shards,
            "start": self.start_sha256,
            **sections(self.file, "mix", "train"),
        }

    @property
    def digest(self) -> str:
        """Of `content`."""
        return digest("run", **self.content)


def run_inputs(file: RunFile) -> RunInputs:
    """Find and check what a run reads; writes nothing.

    Raises:
        UsageError: what is missing or does not fit, with its place in the file.
    """
    run = file.run
    corpus = _open(file, run.corpus, ("corpus",))
    held_out = corpus if run.held_out is None else _open(file, run.held_out, ("held_out",))
    if not held_out.shards("real", "eval"):
        field: FieldPath = ("held_out",) if run.held_out else ("corpus",)
        raise UsageError(
            f"{file.at(field)}: the corpus has no eval split to measure checkpoints on; name one with held_out"
        )
    tokenizer = _tokenizer(file, corpus)
    _check_held_out(file, corpus, held_out)
    start = _start(file, tokenizer)
    return RunInputs(
        file=file,
        corpus=corpus,
        held_out=held_out,
        tokenizer=tokenizer,
        start=start,
        start_sha256=weights_sha256(start) if start else "",
    )


def sections(file: RunFile, *names: str) -> dict[str, Any]:
    """Sections of a run file as JSON values, defaults filled in."""
    return {name: getattr(file.run, name).model_dump(mode="json") for name in names}


def _open(file: RunFile, named: str, field: FieldPath) -> Corpus:
    try:
        return open_corpus(named if is_remote(named) else file.resolve(Path(named)))
    except UsageError as error:
        raise UsageError(f"{file.at(field)}: {error}") from None


def _tokenizer(file: RunFile, corpus: Corpus) -> Tokenizer:
    try:
        return Tokenizer.load(corpus.folder / "tokenizer")
    except UsageError as error:
        raise UsageError(f"{file.at(('corpus',))}: {error}") from None


def _check_held_out(file: RunFile, corpus: Corpus, held_out: Corpus) -> None:
    """Ids mean the same in both corpora."""
    ours, theirs = (one.folder / "tokenizer" / TOKENIZER_FILES[0] for one in (corpus, held_out))
    if not theirs.is_file() or ours.read_bytes() != theirs.read_bytes():
        raise UsageError(
            f"{file.at(('held_out',))}: has another tokenizer than the corpus, so its ids say something else; name a "
            "corpus with the same one"
        )


def _start(file: RunFile, tokenizer: Tokenizer) -> Path | None:
    """The folder of the first weights; None for a new model."""
    start = file.run.start
    if start is None:
        return None
    if start.hf is not None:
        at = file.at(("start", "hf"))
        folder = snapshot(start.hf, at, weights=True)
    elif isinstance(start.path, str):
        at = file.at(("start", "path"))
        folder = bucket_folder(start.path, at, weights=True, cache=default_cache())
    else:
        assert start.path is not None
        at, folder = file.at(("start", "path")), file.resolve(start.path)
    if not (folder / "config.json").is_file() or not any(folder.glob("*.safetensors")):
        raise UsageError(
            f"{at}: no model with safetensors weights in {folder}; paths are relative to the run file"
        )
    check_vocabulary(folder, tokenizer, at)
    longest, context = config_number(folder, "max_position_embeddings"), file.run.train.context
    if longest is not None and longest < context:
        raise UsageError(
            f"{file.at(('train', 'context'))}: must be at most {longest}, the positions of the model of start, "
            f"found {context}"
        )
    return folder


def run_stream(inputs: RunInputs) -> "BlockDataset":
    """The run's blocks, at least as many as it needs.

    Raises:
        UsageError: a share that the corpus cannot serve, or a source would be read more often than it may.
    """
    from cdgen.streaming.open import blocks

    file, run = inputs.file, inputs.file.run
    try:
        found = blocks(
            inputs.corpus,
            block=run.train.context,
            seed=run.train.seed,
            synthetic=run.mix.synthetic,
            weights=run.mix.weights,
            shuffle=run.mix.shuffle,
            shuffle_blocks=run.mix.shuffle_blocks,
            size=inputs.num_tokens,
            repeat="allow",
        )
    except UsageError as error:
        raise UsageError(f"{file.at(('mix',))}: {error}") from None
    _check_passes(inputs, sources_read(found, inputs.num_tokens))
    return found


def _check_passes(inputs: RunInputs, sources: dict[str, SourceRead]) -> None:
    """Refuse a run that would read a source more often than it may."""
    file, mix = inputs.file, inputs.file.run.mix
    caps = mix.max_passes or {}
    for name in caps:
        if name not in sources:
            raise UsageError(
                f"{file.at(('mix', 'max_passes', name))}: no source {name!r}: the corpus has {', '.join(sources)}"
            )
    for name, read in sources.items():
        most = caps.get(name, 1 if mix.repeat == "error" else None)
        if most is not None and read.passes > most:
            where: FieldPath = ("mix", "max_passes", name) if name in caps else ("mix", "repeat")
            own = round(read.tokens / read.passes)
            raise UsageError(
                f"{file.at(where)}: the run reads {read.tokens:,} {name} tokens, {read.passes:.2f} times the {own:,} "
                f"there are, and may read them {_times(most)}; take fewer steps, another share, or allow more"
            )


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"


def sources_read(blocks: "BlockDataset", num_tokens: int) -> dict[str, SourceRead]:
    """What a run of so many tokens reads of each source, exactly."""
    read = blocks.tokens_before(num_tokens // blocks.block)
    own = {line.source.name: line.pass_tokens for line in blocks.merged.lines}
    return {name: SourceRead(tokens=n, passes=n / own[name]) for name, n in read.items()}


def share_read(blocks: "BlockDataset", sources: dict[str, SourceRead]) -> SyntheticShare:
    """The share of all that is not real text."""
    merged = blocks.merged
    names = [line.source.name for line in merged.lines]
    weights = dict(zip(names, merged.pieces[0].weights, strict=True))
    synthetic = [name for name in names if name != "real"]
    return SyntheticShare(
        asked=sum(weights[name] for name in synthetic) / sum(weights.values()),
        realised=sum(sources[name].tokens for name in synthetic)
        / sum(read.tokens for read in sources.values()),
    )
