"""Findings: which samples hold items of evaluation sets, as one parquet file in index/.

One row per sample and set that met, in the order of the shards' names, of the samples in them, and of the sets. The
items' texts are not in it: some sets must not be spread in plain text.
"""

import io
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from cdgen.errors import BuildError
from cdgen.shards.manifest import ContaminationInfo, Manifest
from cdgen.shards.verdicts import stamp
from cdgen.storage import FileStamp, atomic_write, reading

FINDINGS_FORMAT = 1

_FORMAT_KEY, _DIGEST_KEY = b"cdgen_findings_format", b"cdgen_contamination_digest"

FINDING_SCHEMA: pa.Schema = pa.schema(
    [
        pa.field(name, kind, nullable=False)
        for name, kind in (
            ("key", pa.string()),
            ("shard", pa.string()),
            ("source", pa.string()),
            ("set", pa.string()),
            ("item", pa.int64()),
            ("begin", pa.int64()),
            ("num_words", pa.int64()),
        )
    ]
)
"""key: as in the sample's own shard; source: real or synthetic; item: from 0, in the set's order; begin, num_words: the
words of the sample that are the item's."""


def findings_name(digest: str) -> str:
    """The name of the file in index/, by the digest of what was looked for and where."""
    return f"contamination-{digest[:8]}.parquet"


def write_findings(folder: Path, table: pa.Table, digest: str) -> FileStamp:
    """Write findings into index/ of `folder`, complete or not at all."""
    metadata = {_FORMAT_KEY: str(FINDINGS_FORMAT), _DIGEST_KEY: digest}
    file = io.BytesIO()
    pq.write_table(
        table.replace_schema_metadata(metadata), file, compression="zstd", write_page_checksum=True
    )
    path = folder / "index" / findings_name(digest)
    atomic_write(path, file.getvalue())
    return stamp(path)


def read_findings(path: Path, digest: str = "") -> pa.Table:
    """The findings in a file; BuildError if there are none, or damaged, newer, or not of `digest` if it is given."""
    try:
        with reading(path), pq.ParquetFile(path, page_checksum_verification=True) as file:
            metadata = file.schema_arrow.metadata or {}
            found = metadata.get(_FORMAT_KEY, b"")
            if found.isdigit() and int(found) > FINDINGS_FORMAT:
                raise BuildError(
                    f"{path}: findings format {int(found)}; this cdgen reads up to {FINDINGS_FORMAT}: upgrade cdgen"
                )
            if not file.schema_arrow.equals(FINDING_SCHEMA):
                raise BuildError(f"{path}: not a file of findings: its columns differ")
            if digest and metadata.get(_DIGEST_KEY, b"") != digest.encode():
                raise BuildError(
                    f"{path}: findings of something else; remove the file and build again"
                )
            return file.read().replace_schema_metadata()
    except (pa.ArrowException, ValueError, MemoryError) as error:
        raise BuildError(f"cannot read {path}: {str(error).splitlines()[0][:200]}") from None


def counts(table: pa.Table) -> dict[tuple[str, str], int]:
    """Samples by (set, source)."""
    found: dict[tuple[str, str], int] = {}
    for name, source in zip(table["set"].to_pylist(), table["source"].to_pylist(), strict=True):
        found[name, source] = found.get((name, source), 0) + 1
    return found


def contaminated(table: pa.Table) -> frozenset[tuple[str, str]]:
    """(shard, key) of the synthetic samples in it."""
    rows = zip(*(table[name].to_pylist() for name in ("shard", "key", "source")), strict=True)
    return frozenset((shard, key) for shard, key, source in rows if source == "synthetic")


def finding_faults(folder: Path, manifest: Manifest, info: ContaminationInfo) -> Iterator[str]:
    """What is wrong with a corpus's findings, as far as can be told without the evaluation sets."""
    path = folder / "index" / info.findings.name
    try:
        table = read_findings(path)
        if stamp(path) != info.findings:
            yield "its size or SHA-256 is not the manifest's"
    except BuildError as error:
        yield str(error)
        return
    held = {shard.name for shard in manifest.shards}
    unknown = sorted(set(table["shard"].to_pylist()) - held)
    if unknown:
        yield f"names {unknown[0][:80]}, which is not in the manifest"
    found = counts(table)
    for one in info.sets:
        for source, given in (("real", one.num_real), ("synthetic", one.num_synthetic)):
            if found.get((one.name, source), 0) != given:
                yield f"has {found.get((one.name, source), 0)} {source} samples for {one.name}, {given} in the manifest"
