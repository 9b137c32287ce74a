"""Files that are complete or not there, receipts, and one builder per folder.

A damaged file, a full disk or a folder that somebody holds is a `BuildError` of one line.
"""

from cdgen.storage.files import (
    TEMPORARY_PREFIX,
    atomic_file,
    atomic_write,
    reading,
    remove_temporaries,
    sha256_file,
)
from cdgen.storage.jsons import canonical_json, check_format, parse_json, typed
from cdgen.storage.locks import LOCK, Holder, hold, holder
from cdgen.storage.long_json import parse_long_json, records_as_json
from cdgen.storage.receipts import (
    FileStamp,
    Receipt,
    find_receipt,
    matches,
    read_receipt,
    read_receipts,
    receipt_path,
    write_receipt,
)

__all__ = [
    "LOCK",
    "TEMPORARY_PREFIX",
    "FileStamp",
    "Holder",
    "Receipt",
    "atomic_file",
    "atomic_write",
    "canonical_json",
    "check_format",
    "find_receipt",
    "hold",
    "holder",
    "matches",
    "parse_json",
    "parse_long_json",
    "read_receipt",
    "read_receipts",
    "reading",
    "receipt_path",
    "records_as_json",
    "remove_temporaries",
    "sha256_file",
    "typed",
    "write_receipt",
]
