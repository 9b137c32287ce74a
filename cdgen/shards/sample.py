"""A sample: one document as text, token ids and provenance, and the bytes each becomes in a shard.

Every sample of every kind has the same JSON fields with the same types: loaders infer a schema from the first few
samples, and what differs later is lost.
"""

import json
import math
import re
import struct
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, get_type_hints

import numpy as np

from cdgen.shards.npy import DTYPES, Ids, id_dtype

__all__ = [
    "FEATURES", "Meta", "Sample", "document_id", "id_dtype", "key_fits", "mixed_key", "real_key", "repeat_key",
    "split_mixed", "split_repeat", "synthetic_key",
]  # fmt: skip

LARGEST_INTEGER = 2**53
MAX_KEY_LENGTH = 94
"""With ".json" a key must fit in the 100 bytes that USTAR has for a name."""
MEMBERS = ("txt", "json", "npy")

_KEY = re.compile(rf"[a-z0-9][a-z0-9_-]{{0,{MAX_KEY_LENGTH - 1}}}")
_DOCUMENT = re.compile(r"[0-9a-f]{24}-[0-9]+")
_REPEAT = re.compile(r"(.+)-p([1-9][0-9]*)")
_ALSO = re.compile(r"(.+)-d([0-9a-f]{8})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Meta:
    """Where a sample comes from, and how it was made. Its fields, in this order, are the sample's JSON.

    Floats are rounded to float32 and kept as the shortest decimal that names that float32, so that their JSON is
    short and the same wherever they were computed.

    Raises:
        ValueError: a wrong type, an integer beyond 2^53, a float that is not finite.
    """

    source: str = ""
    """real or synthetic."""
    origin: str = ""
    """The name of the source in the recipe."""
    license: str = ""
    document: str = ""
    """The parent document: `document_id`."""
    start: int = 0
    """Of the text, or of the prefix of a synthetic one: the first byte in the parent."""
    end: int = 0
    """The byte after the last one."""
    split: str = ""
    """train or eval."""
    num_tokens: int = 0
    prefix_tokens: int = 0
    """Ids of this sample, from its start, that are the prefix."""
    completion: int = -1
    """Which completion of its prefix a synthetic sample is, from 0."""
    part: int = 0
    """Which piece of its parent, or which document of its completion, from 0."""
    truncated: bool = False
    """True where the document goes on after this sample, so that no EOS ends it."""
    bos_inserted: bool = False
    """True where BOS was put before a later part because the model had not drawn one."""
    expert: str = ""
    amateur: str = ""
    decode: str = ""
    """Short digests of what made a synthetic sample."""
    rng_key: str = ""
    """The key of a synthetic completion's random numbers, in hex."""
    mean_logp_expert: float = 0.0
    mean_logp_amateur: float = 0.0
    """Mean natural logarithm of the generated tokens' probability."""
    mean_head_size: float = 0.0
    """Mean number of tokens in the head."""
    head_of_one_share: float = 0.0
    """Share of steps at which the head held one token."""

    def __post_init__(self) -> None:
        for (name, kind), value in zip(META_TYPES.items(), _VALUES(self), strict=True):
            if kind is float:
                object.__setattr__(self, name, short_float(name, value))
            elif type(value) is not kind:
                raise ValueError(f"{name} must be {kind.__name__}, found {type(value).__name__}")
            elif type(value) is int and abs(value) > LARGEST_INTEGER:
                raise ValueError(f"{name} must stay within 2^53, found {value}")

    def to_json(self) -> bytes:
        """The bytes of the .json member; ValueError for text that UTF-8 cannot hold."""
        return _ENCODER.encode(self.columns()).encode()

    def columns(self) -> dict[str, Any]:
        """Its fields in their order, by name."""
        return dict(zip(META_TYPES, _VALUES(self), strict=True))

    @classmethod
    def from_json(cls, data: bytes) -> "Meta":
        """Read what `to_json` wrote; ValueError for any other bytes."""
        try:
            values = json.loads(data.decode())
        except RecursionError:
            raise ValueError("JSON nested too deeply") from None
        if type(values) is not dict:
            raise ValueError("the JSON is not an object")
        if list(values) != list(META_TYPES):
            odd = sorted(set(values) ^ set(META_TYPES))
            raise ValueError(
                f"fields missing, unknown or out of order: {', '.join(odd)[:120] or 'order'}"
            )
        meta = cls(**values)
        if meta.to_json() != data:
            raise ValueError("the JSON is not written as cdgen writes it")
        return meta


META_TYPES: dict[str, type] = get_type_hints(Meta)
"""The fields of the JSON, in order: str, int, bool or float."""

_VALUES = attrgetter(*META_TYPES)

_ENCODER = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, separators=(",", ":"), check_circular=False
)
_FEATURE_TYPES = {str: "string", int: "int64", bool: "bool", float: "float64"}


def short_float(name: str, value: Any) -> float:
    """`value` rounded to float32, as the float64 of that float32's shortest decimal; never -0.0.

    Python writes such a float with a decimal point or an exponent. ValueError if it is no finite float32.
    """
    if type(value) is float and value == 0.0:  # all of a real sample's, whose number is large
        return 0.0
    try:
        single = struct.unpack("f", struct.pack("f", value))[0]
    except (struct.error, OverflowError):
        single = math.nan
    if isinstance(value, bool) or not math.isfinite(single):
        raise ValueError(f"{name} must be a finite float32, found {str(value)[:40]}")
    return float(np.format_float_scientific(np.float32(single))) + 0.0


def _features(dtype: str) -> list[dict[str, Any]]:
    struct_fields = [
        {"name": name, "dtype": _FEATURE_TYPES[kind]} for name, kind in META_TYPES.items()
    ]
    return [
        {"name": "txt", "dtype": "string"},
        {"name": "json", "struct": struct_fields},
        {"name": "npy", "list": dtype},
        {"name": "__key__", "dtype": "string"},
        {"name": "__url__", "dtype": "string"},
    ]


FEATURES: dict[str, list[dict[str, Any]]] = {dtype.name: _features(dtype.name) for dtype in DTYPES}
"""By dtype name of the corpus's ids: `dataset_info.features` of the card, as it stands in YAML."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sample:
    """One document.

    Attributes:
        key: its name, [a-z0-9_-], unique among its kind.
        text: never empty.
        ids: uint16 or uint32 `[tokens]`, as a trainer consumes them.
        meta: its provenance.

    Raises:
        ValueError: the parts do not fit the contract or each other.
    """

    key: str
    text: str
    ids: Ids
    meta: Meta

    def __post_init__(self) -> None:
        check_key(self.key)
        if not self.text:
            raise ValueError(f"{self.key}: a sample needs text")
        if self.ids.dtype not in DTYPES or self.ids.ndim != 1 or not len(self.ids):
            found = f"{self.ids.dtype} of shape {self.ids.shape}"
            raise ValueError(
                f"{self.key}: ids must be uint16 or uint32, one dimension, not empty; found {found}"
            )
        if self.meta.num_tokens != len(self.ids):
            raise ValueError(
                f"{self.key}: num_tokens is {self.meta.num_tokens}, but there are {len(self.ids)} ids"
            )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sample):
            return NotImplemented
        same = (self.key, self.text, self.meta) == (other.key, other.text, other.meta)
        return same and self.ids.dtype == other.ids.dtype and np.array_equal(self.ids, other.ids)

    __hash__ = None  # type: ignore[assignment]


def check_key(key: str) -> None:
    """Raise ValueError unless `key` can name a sample."""
    if not _KEY.fullmatch(key):
        raise ValueError(
            f"a key must have 1 to {MAX_KEY_LENGTH} of a-z, 0-9, _ and -, found {key[:120]!r}"
        )


def document_id(digest: str, occurrence: int) -> str:
    """A parent document's id: 24 hex digits of its content's digest, and which copy of it this is, from 0."""
    document = f"{digest[:24]}-{occurrence}"
    check_document(document)
    return document


def check_document(document: str) -> None:
    """Raise ValueError unless `document` has the form of `document_id`."""
    if not _DOCUMENT.fullmatch(document):
        raise ValueError(
            f"a document must be 24 hex digits, - and a number, found {document[:60]!r}"
        )


def real_key(document: str, piece: int) -> str:
    """The key of a piece of a real document: r<document>-0000."""
    return f"r{document}-{piece:04d}"


def synthetic_key(document: str, chunk: int, completion: int, part: int) -> str:
    """The key of a part of a completion of a prefix: s<document>-0000-000-00.

    Args:
        document: the parent of the prefix.
        chunk: which prefix of its parent, from 0.
        completion: which completion of the prefix, from 0.
        part: which document of the completion, from 0.
    """
    return f"s{document}-{chunk:04d}-{completion:03d}-{part:02d}"


def repeat_key(key: str, n: int) -> str:
    """The key of the n-th use of a sample, from 1: the first keeps the key, the second adds -p2."""
    if n < 1:
        raise ValueError(f"uses are counted from 1, found {n}")
    return key if n == 1 else f"{key}-p{n}"


def split_repeat(key: str) -> tuple[str, int]:
    """(key of the source sample, n): undoes `repeat_key`."""
    match = _REPEAT.fullmatch(key)
    return (match[1], int(match[2])) if match else (key, 1)


def mixed_key(key: str, decode: str = "", n: int = 1) -> str:
    """The key of a sample in the mixed shards.

    Two corpora that continue the same text have the same synthetic keys, so a sample of another corpus adds -d and
    the first 8 digits of its decode digest; a repeat adds -p2 and so on.

    Args:
        key: the sample's own.
        decode: the decode digest of another corpus's sample; "" for this corpus's own.
        n: which use of the sample it is, from 1.
    """
    return repeat_key(f"{key}-d{decode[:8]}" if decode else key, n)


def split_mixed(key: str) -> tuple[str, str, int]:
    """(key of the source sample, 8 digits of another corpus's decode digest or "", n): undoes `mixed_key`."""
    first, n = split_repeat(key)
    match = _ALSO.fullmatch(first)
    return (match[1], match[2], n) if match else (first, "", n)


def key_fits(key: str, meta: Meta) -> bool:
    """Whether `key` is one that a sample with this provenance can have (without a repeat's ending)."""
    if meta.source == "real":
        return key == real_key(meta.document, meta.part)
    chunk = key.removeprefix(f"s{meta.document}-").partition("-")[0]
    return chunk.isdigit() and key == synthetic_key(
        meta.document, int(chunk), meta.completion, meta.part
    )
