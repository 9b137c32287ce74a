"""The first stages of a build, each kept by digest: tokenizer and text. The models are next (`model_stage`).

A stage that is finished is recognised by its record, which is written last, and is not done again.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from cdgen.builders.inputs import Resolved, check_vocabularies
from cdgen.errors import BuildError
from cdgen.progress import Progress
from cdgen.recipes.digests import Digests
from cdgen.recipes.load import RecipeFile
from cdgen.recipes.schema import (
    Recipe,
)
from cdgen.shards.layout import index_path, shard_path
from cdgen.shards.reader import MappedShard
from cdgen.shards.receipts import receipt_of
from cdgen.storage import (
    Receipt,
    atomic_write,
    canonical_json,
    find_receipt,
    matches,
    write_receipt,
)
from cdgen.storage.places import Folder, Hold, Locked, Place
from cdgen.text.prepare import write_text
from cdgen.text.sides import place, train_texts
from cdgen.text.tokenizer import FILES as TOKENIZER_FILES
from cdgen.text.tokenizer import Tokenizer, tokenizer_files, train_tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """Everything the stages of one build share."""

    file: RecipeFile
    inputs: Resolved
    digests: Digests
    out: Path
    """The corpus folder; of a build into an object store the folder in which this process works."""
    place: Place
    """Where the finished shards go."""
    hold: Hold = field(default_factory=Locked)
    """What says that the place is still this build's."""
    cache: Path
    progress: Progress

    @property
    def recipe(self) -> Recipe:
        """The recipe."""
        return self.file.recipe

    @property
    def in_place(self) -> bool:
        """Whether finished shards go into this build's own folder."""
        return self.place == Folder(self.out)


@dataclass(frozen=True, slots=True, kw_only=True)
class TextRecord:
    """What the text stage made; the file of this record is written last of all."""

    receipts: tuple[Receipt, ...]
    num_prefixes: int
    counts: dict[str, int]
    sources: dict[str, dict[str, int]]

    def split(self, split: str) -> list[Receipt]:
        """The receipts of one split's shards, in order."""
        return [receipt for receipt in self.receipts if receipt.name.startswith(f"real-{split}-")]

    def num_tokens(self, split: str) -> int:
        """Tokens of one split."""
        return sum(receipt.num_tokens for receipt in self.split(split))


# ---- tokenizer ----


def tokenizer_stage(build: Build) -> Tokenizer:
    """The corpus's tokenizer, its files put into tokenizer/."""
    target = build.out / "tokenizer"
    given = build.inputs.tokenizer
    if given is not None:
        files = {
            name: (given / name).read_bytes()
            for name in TOKENIZER_FILES
            if (given / name).is_file()
        }
    else:
        files = _trained_tokenizer(build)
    for name, content in files.items():
        if not (target / name).is_file() or (target / name).read_bytes() != content:
            atomic_write(target / name, content)
    tokenizer = Tokenizer.load(target)
    inputs = build.inputs  # before anything is trained for an amateur that does not fit
    check_vocabularies(
        build.file, tokenizer, expert=None, amateur=inputs.amateur, models=inputs.models
    )
    return tokenizer


def known_tokenizer(build: Build) -> Path | None:
    """The tokenizer.json that the corpus will have, where it is there before the work begins."""
    folder = build.inputs.tokenizer or _tokenizer_cache(build)
    path = folder / TOKENIZER_FILES[0]
    return path if path.is_file() else None


def _tokenizer_cache(build: Build) -> Path:
    return build.cache / "tokenizers" / build.digests.tokenizer[:32]


def _trained_tokenizer(build: Build) -> dict[str, bytes]:
    folder = _tokenizer_cache(build)
    kept = [folder / name for name in TOKENIZER_FILES]
    if not all(path.is_file() for path in kept):
        spec, train = build.recipe.tokenizer_training(), build.recipe.expert.train
        with build.progress.stage("train tokenizer", total=None, unit="document") as advance:

            def texts() -> Iterator[str]:
                for text in train_texts(build.recipe.text, build.inputs.sources):
                    advance(1)
                    yield text

            backend = train_tokenizer(texts(), spec)
        if backend.get_vocab_size() < 258:
            raise BuildError(
                "the train split is empty: there is nothing to train a tokenizer on; raise text.splits.train"
            )
        files = tokenizer_files(backend, context=train.context if train else 1024)
        for name, content in reversed(
            files.items()
        ):  # tokenizer.json last: the other one is checked with it
            atomic_write(folder / name, content)
    return {path.name: path.read_bytes() for path in kept}


# ---- text ----


def text_stage(build: Build, tokenizer: Tokenizer) -> TextRecord:
    """Real shards and the prefix table."""
    record = open_text(build)
    if record is not None:
        return record
    recipe, digests = build.recipe, build.digests
    with build.progress.stage("write real text", total=None, unit="document") as advance:
        result = write_text(
            place(recipe.text, build.inputs.sources),
            recipe.text,
            tokenizer,
            build.out,
            digest=digests.text,
            documents=recipe.shards.documents,
            prefixes=prefix_table(build.out, digests),
            on_documents=advance,
        )
    receipts = tuple(receipt_of(info, digests.text) for _, info in result.shards)
    for receipt in receipts:
        write_receipt(build.out / "work/receipts", receipt)
    record = TextRecord(
        receipts=receipts,
        num_prefixes=result.num_prefixes,
        counts=dict(result.counts),
        sources={name: dict(counts) for name, counts in result.sources.items()},
    )
    atomic_write(
        text_record(build.out, build.digests),
        canonical_json({**asdict(record), "receipts": [r.name for r in receipts]}),
    )
    return record


def open_text(build: Build) -> TextRecord | None:
    """The finished text stage, or None."""
    try:
        kept = json.loads(text_record(build.out, build.digests).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    mine = [find_receipt(build.out / "work/receipts", name) for name in kept["receipts"]]
    if not all(
        receipt and matches(receipt, shard_path(build.out, receipt.name)) for receipt in mine
    ):
        return None
    if not prefix_table(build.out, build.digests).is_file():
        return None
    return TextRecord(**{**kept, "receipts": tuple(receipt for receipt in mine if receipt)})


def prefix_table(out: Path, digests: Digests) -> Path:
    """The parquet file of the prefix split's chunks."""
    return out / "work" / f"prefixes-{digests.text[:8]}.parquet"


def text_record(out: Path, digests: Digests) -> Path:
    """The note that the text stage is finished, and what it counted."""
    return out / "work" / f"text-{digests.text[:8]}.json"


def mapped(out: Path, receipt: Receipt) -> MappedShard:
    """A finished shard, mapped."""
    return MappedShard(shard_path(out, receipt.name), index_path(out, receipt.name))
