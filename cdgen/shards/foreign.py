"""An index of webdataset tars that cdgen did not write, made without touching them: `cdgen index`.

See shards/FORMAT.md, "Index of foreign tars".
"""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from cdgen.errors import BuildError, UsageError
from cdgen.shards.foreign_tar import ForeignSample, foreign_samples
from cdgen.shards.layout import MANIFEST
from cdgen.storage import (
    atomic_file,
    atomic_write,
    canonical_json,
    check_format,
    parse_json,
    reading,
    sha256_file,
    typed,
)

FOREIGN_FORMAT = 1
FOREIGN_MANIFEST = "foreign.json"
DEFAULT_FOLDER = "cdgen-index"
NOTES_PER_TAR = 20
ROWS_PER_GROUP = 8192

_FORMAT_KEY = b"cdgen_foreign_index_format"
FOREIGN_SCHEMA: pa.Schema = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("length", pa.int64(), nullable=False),
        pa.field("endings", pa.list_(pa.string()), nullable=False),
        pa.field("offsets", pa.list_(pa.int64()), nullable=False),
        pa.field("lengths", pa.list_(pa.int64()), nullable=False),
    ],
    metadata={_FORMAT_KEY: str(FOREIGN_FORMAT)},
)
"""One row per sample, in the tar's order. `offset` and `length` span the sample; the lists have one entry a member."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignTar:
    """An indexed tar."""

    name: str
    """Path below the folder of the tars, with slashes."""
    num_bytes: int
    num_samples: int
    endings: dict[str, int]
    """How many samples have a member of each ending."""
    num_skipped: int
    """Members left out: links, devices, names that no file should have."""
    index_bytes: int
    index_sha256: str

    @property
    def index(self) -> str:
        """The file of its index: a path below the folder of the index."""
        return _index_name(self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignManifest:
    """An index of foreign tars: what `foreign.json` holds."""

    tars_folder: str
    """The folder of the tars, as seen from the folder of the index."""
    tars: tuple[ForeignTar, ...]
    refused: dict[str, str] = field(default_factory=dict)
    """By name: tars that could not be indexed, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignReport:
    """What `index_tars` made.

    Attributes:
        folder: of the index.
        manifest: what was written there.
        notes: what was left out of which tar; the first twenty of each.
    """

    folder: str
    manifest: ForeignManifest
    notes: tuple[str, ...]


def index_tars(
    folder: Path, out: Path | None = None, *, advance: Callable[[int], None] = lambda _: None
) -> ForeignReport:
    """Index every .tar file below `folder`.

    Args:
        folder: the tars; nothing in it is changed. Folders that are links are not entered.
        out: where the index goes; `cdgen-index` in the folder by default.
        advance: told of every tar.

    Raises:
        UsageError: no such folder, no tars in it, a cdgen corpus, or `out` holds something else.
        BuildError: the index cannot be written. A tar that cannot be indexed is reported, not raised.
    """
    out = out or folder / DEFAULT_FOLDER
    names = _tar_names(folder)
    _check_out(out)
    tars: list[ForeignTar] = []
    refused: dict[str, str] = {}
    notes: list[str] = []
    for name in names:
        left_out = _LeftOut(_printable(name))
        try:
            tars.append(_index_one(folder, name, out, left_out))
        except ValueError as error:
            refused[_printable(name)] = str(error)
        notes += left_out.lines()
        advance(1)
    manifest = ForeignManifest(
        tars_folder=Path(os.path.relpath(folder.resolve(), out.resolve())).as_posix(),
        tars=tuple(tars),
        refused=refused,
    )
    body = json.loads(canonical_json({"format": FOREIGN_FORMAT, **asdict(manifest)}))
    text = json.dumps(body, indent=1, sort_keys=True, ensure_ascii=False)
    atomic_write(out / FOREIGN_MANIFEST, text.encode() + b"\n")
    return ForeignReport(folder=str(out), manifest=manifest, notes=tuple(notes))


def read_foreign_manifest(folder: Path) -> ForeignManifest:
    """Read the manifest of an index of foreign tars; BuildError where there is none or it is damaged."""
    path = folder / FOREIGN_MANIFEST
    if not path.is_file():
        raise BuildError(f"{folder} is not an index of tars: it has no {FOREIGN_MANIFEST}")
    with reading(path):
        data = path.read_bytes()
    value = check_format(parse_json(data, path), FOREIGN_FORMAT, str(path))
    manifest: ForeignManifest = typed(ForeignManifest, value, str(path))
    for tar in manifest.tars:
        if tar.name.startswith("/") or ".." in tar.name.split("/"):
            raise BuildError(f"{path}: {tar.name[:80]!r} is not a path below its folder")
    return manifest


def read_foreign_index(path: Path) -> pa.Table:
    """Read the index of one tar; BuildError where it is missing, damaged or something else."""
    try:
        with reading(path), pq.ParquetFile(path, page_checksum_verification=True) as file:
            _check_schema(file.schema_arrow, path)
            return file.read()
    except (pa.ArrowException, ValueError, MemoryError) as error:
        raise BuildError(f"cannot read {path}: {str(error).splitlines()[0][:200]}") from None


def _check_schema(schema: pa.Schema, path: Path) -> None:
    found = (schema.metadata or {}).get(_FORMAT_KEY, b"")
    if found.isdigit() and int(found) > FOREIGN_FORMAT:
        raise BuildError(
            f"{path}: format {int(found)}; this cdgen reads up to {FOREIGN_FORMAT}: upgrade cdgen"
        )
    if not found or not schema.equals(FOREIGN_SCHEMA):
        raise BuildError(f"{path}: not the index of a foreign tar: its columns differ")


def _tar_names(folder: Path) -> list[str]:
    """Paths of the tars below a folder, sorted."""
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder")
    if (folder / MANIFEST).is_file():
        raise UsageError(f"{folder}: a cdgen corpus: it has its own index in index/")
    found, packed = [], []
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent) / name
            if name.endswith(".tar") and path.is_file():
                found.append(path.relative_to(folder).as_posix())
            elif name.endswith((".tar.gz", ".tgz", ".tar.zst", ".tar.bz2", ".tar.xz")):
                packed.append(path.name)
    if not found:
        hint = f"; {packed[0]} is compressed: unpack it to a .tar" if packed else ""
        raise UsageError(f"{folder}: no .tar files in it{hint}")
    return sorted(found)


def _check_out(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out}: is a file; choose another folder with --out")
    if out.is_dir() and any(out.iterdir()) and not (out / FOREIGN_MANIFEST).is_file():
        raise UsageError(f"{out}: holds something else; choose another folder with --out")


class _LeftOut:
    """Counts the members of a tar that are left out, and remembers the first ones."""

    def __init__(self, tar: str) -> None:
        self._tar, self.count = tar, 0
        self._first: list[str] = []

    def __call__(self, offset: int, what: str) -> None:
        self.count += 1
        if self.count <= NOTES_PER_TAR:
            self._first.append(f"{self._tar}: left out at byte {offset}: {what}")

    def lines(self) -> list[str]:
        """A line for each of the first ones, and how many more."""
        more = self.count - len(self._first)
        return [*self._first, *([f"{self._tar}: and {more:,} more"] if more else [])]


def _index_one(folder: Path, name: str, out: Path, left_out: _LeftOut) -> ForeignTar:
    """Index one tar; ValueError when it cannot be."""
    if name != _printable(name):
        raise ValueError("its own name is not UTF-8")
    endings: Counter[str] = Counter()
    num_samples = 0
    samples = foreign_samples(folder / name, left_out)
    index = out / _index_name(name)
    with (
        atomic_file(index) as file,
        pq.ParquetWriter(
            file, FOREIGN_SCHEMA, compression="zstd", write_page_checksum=True
        ) as writer,
    ):
        while rows := list(islice(samples, ROWS_PER_GROUP)):
            num_samples += len(rows)
            endings.update(ending for row in rows for ending in row.endings)
            writer.write_table(_table(rows))
        if not num_samples:
            raise ValueError("no samples in it")
    return ForeignTar(
        name=name,
        num_bytes=(folder / name).stat().st_size,
        num_samples=num_samples,
        endings=dict(sorted(endings.items())),
        num_skipped=left_out.count,
        index_bytes=index.stat().st_size,
        index_sha256=sha256_file(index),
    )


def _index_name(tar: str) -> str:
    return f"{tar.removesuffix('.tar')}.parquet"


def _printable(name: str) -> str:
    """A file's name that UTF-8 can hold."""
    return name.encode(errors="backslashreplace").decode()


def _table(rows: list[ForeignSample]) -> pa.Table:
    columns = {
        "key": [row.key for row in rows],
        "offset": [row.offset for row in rows],
        "length": [row.end - row.offset for row in rows],
        "endings": [row.endings for row in rows],
        "offsets": [row.offsets for row in rows],
        "lengths": [row.lengths for row in rows],
    }
    return pa.Table.from_pydict(columns, schema=FOREIGN_SCHEMA)


def tars_of(folder: Path) -> Iterator[tuple[ForeignTar, Path, Path]]:
    """(entry, tar, index) of each tar of the index in `folder`; BuildError when a tar's size has changed."""
    manifest = read_foreign_manifest(folder)
    for tar in manifest.tars:
        path = folder / manifest.tars_folder / tar.name
        if not path.is_file() or path.stat().st_size != tar.num_bytes:
            raise BuildError(f"{path}: not the tar that was indexed; run cdgen index again")
        yield tar, path, folder / tar.index
