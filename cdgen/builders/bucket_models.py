"""Given models and tokenizers in object stores: fetched once per machine, and kept in $CDGEN_CACHE by their content.

Only what is loaded without running code is fetched: safetensors weights, JSON, tokenizer files, from the folder itself.
What the store calls the files (their etags or generations) says whether they are those that were fetched before; their
hashes, asked for at every use, say whether the kept ones are still whole.
"""

import re
import shutil
import threading
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from cdgen.builders.fetch import FETCHED, Source, alone, checks, download, kept, source_of
from cdgen.builders.snapshots import SMALL, WEIGHTS, check_complete
from cdgen.errors import BuildError, UsageError
from cdgen.progress import Progress, Quiet
from cdgen.recipes.digests import digest
from cdgen.storage import TEMPORARY_PREFIX, atomic_write, canonical_json, parse_json, typed
from cdgen.storage.conditional import Objects
from cdgen.storage.drivers import Stored
from cdgen.storage.places import writing

LISTINGS = "listings"
"""The folder of the cache that says what was fetched for which objects."""
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,200}")


def bucket_folder(
    address: str, at: str, *, weights: bool, cache: Path, progress: Progress | None = None
) -> Path:
    """The folder, in the cache, of a model's files in an object store.

    Args:
        address: s3:// or gs://, as `cdgen.recipes.addresses` takes it.
        at: `file:line:column: field`, for messages.
        weights: whether weights are wanted besides the tokenizer and config.json.
        cache: where it is kept.
        progress: hears of a download.

    Raises:
        UsageError: no such bucket or folder, no access, no model with safetensors weights in it.
        BuildError: a download that was cut, damaged, or overtaken by a change; a full disk.
    """
    try:
        objects = Objects(address)
        found = _wanted(objects, weights=weights)
    except (BuildError, UsageError) as error:
        raise UsageError(f"{at}: {error}") from None
    versions = {name: [told.num_bytes, told.version] for name, told in sorted(found.items())}
    record = cache / LISTINGS / digest("listing", address=objects.where, versions=versions)
    try:
        with writing(record):
            record.parent.mkdir(parents=True, exist_ok=True)
            with alone(record):
                source = _known(record, cache)
                if source is None:
                    source = _fetched(objects, found, cache, record.name, progress or Quiet())
                    said = {"files": source.files, "sha256": source.sha256}
                    atomic_write(record, canonical_json(said))
    except BuildError as error:
        raise BuildError(f"{at}: {error}") from None
    check_complete(source.folder, f"{at}: {objects.where}")
    return source.folder


def _wanted(objects: Objects, *, weights: bool) -> dict[str, Stored]:
    """The objects that are fetched, by name; a store's keys are anybody's text, and become names of files here."""
    found = objects.files()
    if not found:
        raise UsageError(
            f"{objects.where}: there are no files, or no such bucket; the address is that of a folder with config.json"
        )
    patterns = (*SMALL, *(WEIGHTS if weights else ()))
    wanted = {
        name: told
        for name, told in found.items()
        if any(fnmatchcase(name, one) for one in patterns)
    }
    odd = [name for name in wanted if not _NAME.fullmatch(name)]
    if odd:
        raise UsageError(
            f"{objects.where}: {odd[0][:80]!r} is no name for a file; letters, digits, dot, - and _ are expected"
        )
    if not weights:
        return wanted
    if "config.json" not in wanted:
        raise UsageError(f"no model in {objects.where} (config.json is missing)")
    if not any(name.endswith(".safetensors") for name in wanted):
        raise UsageError(
            f"no safetensors weights in {objects.where}; pickled weights are not loaded, "
            "save them again with save_pretrained(…, safe_serialization=True)"
        )
    return wanted


def _check_unchanged(objects: Objects, found: Mapping[str, Stored]) -> None:
    there = objects.files()
    if any(there.get(name) != told for name, told in found.items()):
        raise BuildError(
            f"{objects.where}: was changed while it was fetched; the same command fetches it again"
        )


def _known(record: Path, cache: Path) -> Source | None:
    """What was fetched for these objects, if it is still here and whole."""
    try:
        facts = parse_json(record.read_bytes(), record)
        sha256 = typed(dict[str, Any], facts, str(record))["sha256"]
        source = source_of(kept(cache, str(sha256)))
    except (OSError, BuildError, KeyError):
        return None
    return source if source.files and source.sha256 == sha256 else None


def _fetched(
    objects: Objects, found: Mapping[str, Stored], cache: Path, name: str, progress: Progress
) -> Source:
    """Download what was found, and give it the name of its content; `name` is nobody else's for the time."""
    sizes = [(name, told.num_bytes) for name, told in sorted(found.items())]
    aside = cache / FETCHED / f"{TEMPORARY_PREFIX}{name}"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        with progress.stage("fetch models", total=sum(n for _, n in sizes), unit="byte") as advance:
            lock = threading.Lock()

            def count(num_bytes: int) -> None:
                with lock:
                    advance(num_bytes)

            try:
                download(objects.where, sizes, aside, checks(objects, found), count)
            except BuildError:
                _check_unchanged(objects, found)  # the likelier reason
                raise
        _check_unchanged(objects, found)
        source = source_of(aside)
        target = kept(cache, source.sha256)
        with alone(target):
            shutil.rmtree(target, ignore_errors=True)
            aside.replace(target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return source_of(target)
