"""The further synthetic corpora of a mix (`mix.also`): found and checked before any work, then brought in.

Their synthetic shards become shards of this corpus too, under their own names: as hard links where the file system
can, else as copies. So the corpus is whole by itself: it can be verified, moved, published and mixed anew without
them. Files of a corpus are only ever replaced, never rewritten, so a shared file cannot change under either.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cdgen.builders.bring import bring
from cdgen.errors import BuildError, CdgenError, UsageError
from cdgen.recipes.load import RecipeFile
from cdgen.shards.index import read_index
from cdgen.shards.layout import index_path, parse_name
from cdgen.shards.manifest import (
    AlsoInfo,
    Manifest,
    ManifestShard,
    manifest_digest,
    read_manifest,
)
from cdgen.storage import Receipt, sha256_file

TOKENIZER = Path("tokenizer/tokenizer.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Also:
    """Another corpus, opened.

    Attributes:
        folder: the corpus.
        at: the place of the field that names it, for messages.
        info: what the manifest will say of it.
        shards: its own synthetic shards, in order.
        tokenizer: sha256 of its tokenizer.json.
    """

    folder: Path
    at: str
    info: AlsoInfo
    shards: tuple[ManifestShard, ...]
    tokenizer: str

    @property
    def decode(self) -> str:
        """Its decode digest."""
        return self.info.digests["decode"]


def open_also(file: RecipeFile) -> tuple[Also, ...]:
    """Open every corpus that a recipe mixes in.

    Raises:
        UsageError: one is not there, not finished, holds no synthetic text, or is named twice.
    """
    found: list[Also] = []
    for index, spec in enumerate(file.recipe.mix.also):
        at = file.at(("mix", "also", index, "corpus"))
        also = _open(file.resolve(spec.corpus), at)
        if any(other.decode[:8] == also.decode[:8] for other in found):
            raise UsageError(f"{at}: {also.folder} holds the same synthetic text as one before it")
        found.append(also)
    return tuple(found)


def _open(folder: Path, at: str) -> Also:
    try:
        manifest = read_manifest(folder)
    except BuildError as error:
        raise UsageError(f"{at}: {error}; paths are relative to the recipe") from None
    own = own_synthetic(manifest)
    if not own:
        raise UsageError(f"{at}: {folder} holds no synthetic text of its own")
    if not (folder / TOKENIZER).is_file():
        raise UsageError(f"{at}: {folder} has no {TOKENIZER}, so its token ids mean nothing here")
    digests = {name: manifest.digests.get(name, "") for name in ("expert", "amateur", "decode")}
    if manifest.named("decode") != digests["decode"]:
        digests["names"] = manifest.named("decode")
    info = AlsoInfo(
        name=manifest.name,
        corpus=manifest_digest(own),
        digests=digests,
        sources=manifest.sources,
        license=manifest.license,
        license_problems=manifest.license_problems if not manifest.license else (),
    )
    return Also(
        folder=folder, at=at, info=info, shards=own, tokenizer=sha256_file(folder / TOKENIZER)
    )


def own_synthetic(manifest: Manifest) -> tuple[ManifestShard, ...]:
    """The synthetic shards that a corpus decoded itself, in order."""
    return synthetic_of(manifest, manifest.named("decode"))


def synthetic_of(manifest: Manifest, named: str) -> tuple[ManifestShard, ...]:
    """The synthetic shards that are named by a digest, in order."""
    start = f"synthetic-train-{named[:8]}-"
    found = [shard for shard in manifest.shards if shard.name.startswith(start)]
    return tuple(sorted(found, key=lambda shard: parse_name(shard.name)[3]))


def check_also(every: Sequence[Also], out: Path, decode: str) -> None:
    """Refuse a corpus that is this build's own output, or decodes what this build decodes.

    Raises:
        UsageError: names the field.
    """
    for also in every:
        if also.folder.resolve() == out.resolve():
            raise UsageError(f"{also.at}: {also.folder} is the output folder itself")
        if also.decode[:8] == decode[:8]:
            raise UsageError(
                f"{also.at}: {also.folder} holds the very text that this recipe decodes; raise mix.synthetic instead"
            )


def check_tokenizer(every: Sequence[Also], tokenizer: str) -> None:
    """Refuse a corpus whose ids another tokenizer made (and with it one of another id dtype).

    Args:
        every: the opened corpora.
        tokenizer: sha256 of this corpus's tokenizer.json.

    Raises:
        UsageError: names the field.
    """
    for also in every:
        if also.tokenizer != tokenizer:
            raise UsageError(
                f"{also.at}: the corpus in {also.folder} has another tokenizer ({also.tokenizer[:12]}…, here "
                f"{tokenizer[:12]}…), so its token ids mean other text; build both with one tokenizer: {{path: …}}"
            )


def bring_also(every: Sequence[Also], out: Path, held_out: Iterable[str]) -> list[list[Receipt]]:
    """Bring the synthetic shards of every corpus in.

    Args:
        every: the opened corpora.
        out: this corpus's folder.
        held_out: the real eval shards of this corpus, by name.

    Returns:
        Per corpus the receipts of its shards, in order.

    Raises:
        BuildError: a shard is missing or damaged, or continues a document of this corpus's eval split.
    """
    measured = {document for name in held_out for document in _documents(index_path(out, name))}
    receipts = []
    for also in every:
        for shard in also.shards:
            _refuse_leaks(also, shard, measured)
        try:
            receipts.append([bring(also.folder, s, out, digest=also.decode) for s in also.shards])
        except CdgenError as error:
            raise BuildError(f"{also.at}: {error}") from error
    return receipts


def _refuse_leaks(also: Also, shard: ManifestShard, measured: set[str]) -> None:
    """No text that this corpus measures perplexity on may come back as a prefix."""
    shared = measured & set(_documents(index_path(also.folder, shard.name)))
    if shared:
        raise BuildError(
            f"{also.at}: {shard.name} continues {len(shared):,} documents of this corpus's eval split "
            f"(such as {min(shared)}); build both from the same text.sources and text.splits"
        )


def _documents(index: Path) -> list[str]:
    """The parent documents of a shard's samples; copies of a document are one."""
    names: list[str] = read_index(index, ["document"])["document"].unique().to_pylist()
    return [name.partition("-")[0] for name in names]
