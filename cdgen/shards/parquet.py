"""A Parquet copy of a shard: the same samples in the same order, with the columns that `datasets` gives of the tar."""

from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cdgen.errors import BuildError
from cdgen.shards.index import ARROW_TYPES
from cdgen.shards.npy import IdDtype
from cdgen.shards.reader import samples
from cdgen.shards.sample import META_TYPES, Sample
from cdgen.storage import atomic_file, sha256_file

ROWS_PER_GROUP = 1000
"""A reader of one row, such as the Hub's viewer, reads a group."""

_SHARD = b"cdgen_shard_sha256"


def parquet_name(shard: str) -> str:
    """The name of the copy of the shard called `shard`."""
    return shard.removesuffix(".tar") + ".parquet"


def write_parquet(tar: Path, sha256: str, url: str, path: Path) -> None:
    """Copy a shard, unless `path` is its copy already.

    Args:
        tar: the shard; it is read from front to back, and checked.
        sha256: of the shard, kept in the copy.
        url: what `__url__` says of every row.
        path: of the copy.

    Raises:
        BuildError: the shard is damaged, or the copy cannot be written.
    """
    if _is_copy(path, sha256):
        return
    if sha256_file(tar) != sha256:
        raise BuildError(f"{tar}: is damaged: its SHA-256 is not the manifest's; run cdgen verify")
    rows = samples(tar)
    group = list(islice(rows, ROWS_PER_GROUP))
    schema = _schema(group[0].ids.dtype).with_metadata({_SHARD: sha256.encode()})
    # Content-defined pages: two versions of a corpus share most of their bytes, which the Hub then stores once.
    with (
        atomic_file(path) as file,
        pq.ParquetWriter(
            file,
            schema,
            compression="zstd",
            write_page_index=True,
            use_content_defined_chunking=True,
        ) as writer,
    ):
        while group:
            writer.write_batch(_batch(group, url, schema))
            group = list(islice(rows, ROWS_PER_GROUP))


def _is_copy(path: Path, sha256: str) -> bool:
    """Whether `path` is the copy of the shard with this hash, as this version of Arrow writes it."""
    try:
        about = pq.read_metadata(path)
    except (OSError, pa.ArrowInvalid):
        return False
    written = (about.metadata or {}).get(_SHARD) == sha256.encode()
    return written and about.created_by.endswith(f" {pa.__version__}")


def _schema(dtype: IdDtype) -> pa.Schema:
    return pa.schema(
        {
            "txt": pa.string(),
            "json": pa.struct([(name, ARROW_TYPES[kind]) for name, kind in META_TYPES.items()]),
            "npy": pa.list_(pa.from_numpy_dtype(dtype)),
            "__key__": pa.string(),
            "__url__": pa.string(),
        }
    )


def _batch(group: list[Sample], url: str, schema: pa.Schema) -> pa.RecordBatch:
    ends = np.cumsum([0, *(len(sample.ids) for sample in group)], dtype=np.int32)
    columns = [
        pa.array([sample.text for sample in group], pa.string()),
        pa.array([sample.meta.columns() for sample in group], schema.field("json").type),
        pa.ListArray.from_arrays(ends, np.concatenate([sample.ids for sample in group])),
        pa.array([sample.key for sample in group], pa.string()),
        pa.repeat(pa.scalar(url), len(group)),
    ]
    return pa.RecordBatch.from_arrays(
        [column.cast(field.type) for column, field in zip(columns, schema, strict=True)],
        schema=schema,
    )
