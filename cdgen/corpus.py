"""A finished corpus, opened for reading: in a folder, on the Hub, in an object store or on a web server."""

import hashlib
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from cdgen.errors import BuildError, UsageError
from cdgen.shards.cached_files import CachedFiles
from cdgen.shards.files import LocalFiles, ShardFiles
from cdgen.shards.layout import MANIFEST
from cdgen.shards.manifest import (
    Manifest,
    ManifestShard,
    manifest_digests,
    parse_manifest,
    read_manifest,
)
from cdgen.shards.reader import samples
from cdgen.shards.sample import Sample
from cdgen.storage import atomic_file, atomic_write, parse_json
from cdgen.storage.cache import Cache
from cdgen.storage.remote import (
    PATIENT,
    MissingError,
    Remote,
    Retries,
    download,
    is_remote,
    read_whole,
    remote_at,
    shown,
)

_LOCK = "recipe.lock.json"
_TOKENIZER = "tokenizer/tokenizer.json"
_BESIDES = (_LOCK, _TOKENIZER, "tokenizer/tokenizer_config.json", "recipe.yaml")
"""Small files that a remote corpus may have, besides its manifest and what that names. The lock comes first."""


@dataclass(frozen=True, slots=True)
class Corpus:
    """A corpus and its manifest.

    Attributes:
        folder: of the corpus; of a remote one a local folder that has manifest, tokenizer and verdicts, but no shard.
        manifest: what the corpus holds.
        files: its shards and indexes, as local files.
        where: its folder or address, to show.
        digests: `manifest_digest` of each series of its shards, by `series`.
    """

    folder: Path
    manifest: Manifest
    files: ShardFiles
    where: str
    digests: Mapping[str, str]

    def shards(self, kind: str = "mixed", split: str = "train") -> list[ManifestShard]:
        """The shards of a kind (real, synthetic, mixed) and split (train, eval), in order."""
        return [
            entry for entry in self.manifest.shards if (entry.kind, entry.split) == (kind, split)
        ]

    def samples(self, kind: str = "mixed", split: str = "train") -> Iterator[Sample]:
        """Every sample of a kind and split, in the order of the files."""
        entries = self.shards(kind, split)
        for number, entry in enumerate(entries):
            self.files.ahead(entries[number + 1 :])
            try:
                yield from samples(self.files.shard(entry))
            finally:
                self.files.release([entry])


def open_corpus(
    corpus: str | Path, *, cache: Cache | None = None, retries: Retries = PATIENT
) -> Corpus:
    """Open a finished corpus.

    Args:
        corpus: a folder, or an address: file://, hf://datasets/owner/name[@revision], s3://, gs://, https://, http://.
        cache: where files of a remote corpus are kept; by default in $CDGEN_CACHE, up to $CDGEN_CACHE_LIMIT.
        retries: what is done about faults of a network that may pass.

    Raises:
        UsageError: there is none; names the command that finishes an interrupted build.
        BuildError: it cannot be had, or its manifest is damaged.
    """
    if isinstance(corpus, str) and is_remote(corpus):
        return _open_remote(remote_at(corpus), cache or Cache.default(), retries)
    return open_folder(corpus)


def open_folder(folder: str | Path) -> Corpus:
    """Open a finished corpus in a local folder. Raises: as `open_corpus`."""
    if isinstance(folder, str) and is_remote(folder):
        raise UsageError(f"{shown(folder)}: a local folder is needed here; copy the corpus to one")
    path = _local_path(folder)
    if not (path / MANIFEST).is_file():
        unfinished = (path / "work").is_dir()
        advice = (
            "run cdgen build again to finish it" if unfinished else "cdgen build RECIPE makes one"
        )
        raise UsageError(f"{path}: no manifest.json, so no finished corpus; {advice}")
    manifest = read_manifest(path)
    digests = _checked_digests(manifest, str(path / MANIFEST), "run cdgen verify")
    return Corpus(path, manifest, LocalFiles(path), str(path), digests)


def _checked_digests(manifest: Manifest, where: str, advice: str) -> dict[str, str]:
    """Those of the series of its shards, if that of all is right."""
    whole, parts = manifest_digests(manifest.shards)
    if manifest.digest != whole:
        raise BuildError(f"{where}: damaged: its digest is not that of its shards; {advice}")
    return parts


def _local_path(folder: str | Path) -> Path:
    if isinstance(folder, str) and folder.startswith("file://"):
        parts = urlsplit(folder)
        if parts.netloc not in ("", "localhost"):
            raise UsageError(f"{shown(folder)}: file:///folder, on this machine, is expected")
        return Path(unquote(parts.path))
    return Path(folder)


def _open_remote(remote: Remote, cache: Cache, retries: Retries) -> Corpus:
    """A remote corpus; its manifest, tokenizer and verdicts are brought now, its shards when they are asked for."""
    try:
        data = read_whole(remote, MANIFEST, retries=retries)
    except MissingError:
        raise UsageError(
            f"{remote.where}: no {MANIFEST}, so no finished corpus; check the address"
        ) from None
    manifest = parse_manifest(io.BytesIO(data), f"{remote.where}/{MANIFEST}")
    where = f"{remote.where}/{MANIFEST}"
    digests = _checked_digests(manifest, where, "publish the corpus again")
    folder = cache.folder.with_name("corpora") / hashlib.sha256(data).hexdigest()
    _bring_small(remote, manifest, folder, retries)
    atomic_write(folder / MANIFEST, data)
    return Corpus(
        folder, manifest, CachedFiles(remote, cache, retries=retries), remote.where, digests
    )


def _bring_small(remote: Remote, manifest: Manifest, folder: Path, retries: Retries) -> None:
    """What a reader may want besides shards and indexes, where it is not there from the last time."""
    for stamp in manifest.filters.files() if manifest.filters else ():
        name = f"index/{stamp.name}"
        if not (folder / name).is_file():
            with atomic_file(folder / name) as file:
                download(remote, name, stamp, file, retries=retries)
    for name in _BESIDES:
        if not (folder / name).is_file():
            wanted = _locked_hash(folder / _LOCK) if name == _TOKENIZER else None
            try:
                atomic_write(folder / name, _checked(remote, name, wanted, retries))
            except MissingError:
                continue


def _checked(remote: Remote, name: str, wanted: str | None, retries: Retries) -> bytes:
    """A small file; where its SHA-256 is known and not found it is fetched once more."""
    for _ in range(2):
        data = read_whole(remote, name, retries=retries)
        if wanted in (None, hashlib.sha256(data).hexdigest()):
            return data
    raise BuildError(
        f"{remote.where}/{name}: its SHA-256 is not that of {_LOCK}; publish the corpus again"
    )


def _locked_hash(lock: Path) -> str | None:
    """The SHA-256 of the tokenizer that a lock names, if there is a lock."""
    if not lock.is_file():
        return None
    said = parse_json(lock.read_bytes(), lock)
    named = said.get("tokenizer") if isinstance(said, dict) else None
    found = named.get("sha256") if isinstance(named, dict) else None
    return found if isinstance(found, str) else None
