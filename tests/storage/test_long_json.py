"""A long list that is read in pieces, against the whole file read by `json` and checked by `typed`."""

import io
import json
from dataclasses import asdict, dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdgen.errors import BuildError
from cdgen.storage import long_json, parse_json, parse_long_json, records_as_json, typed


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamp:
    name: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """Refuses a name of its own, as a shard of the manifest does."""

    key: str
    count: int
    index: Stamp

    def __post_init__(self) -> None:
        if self.index.name != self.key:
            raise ValueError(f"{self.index.name!r} is not of {self.key!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Whole:
    first: dict[str, str]
    items: tuple[Record, ...]
    later: dict[str, str]
    last: int = 0


WORDS = st.text(max_size=6) | st.sampled_from(
    ["\n  },", '\n "items": [', "\n ]", "items", long_json._STANDS_FOR.decode()[1:-1]]
)
RECORDS = st.builds(
    lambda key, count, size: Record(key=key, count=count, index=Stamp(name=key, size=size)),
    WORDS,
    st.integers(-(2**53), 2**53),
    st.integers(0, 9),
)
WHOLES = st.builds(
    Whole,
    first=st.dictionaries(WORDS, WORDS, max_size=2),
    items=st.lists(RECORDS, max_size=5).map(tuple),
    later=st.dictionaries(WORDS, WORDS, max_size=2),
)
PIECES = st.sampled_from(
    [b"", b" ", b",", b"\n  },", b"\n ]", b'\n "items": [', b"]", b"}", b"{", b'"', b"0", b"-", b"1.0", b"null",
     b"NaN", b"true", b"\\ud800", b"\\u0041", b"\xff", b'"count": 1,', b'"key": "",', b"9" * 20, b"\x00", b"[]",
     long_json._STANDS_FOR, b'"items": ' + long_json._STANDS_FOR + b","]
)  # fmt: skip


def outcome(value: object) -> object:
    """What `typed` makes of it, or what it says."""
    try:
        return typed(Whole, value, "file")
    except BuildError as error:
        return str(error)


def slow(data: bytes) -> object:
    try:
        return outcome(parse_json(data, "file"))
    except BuildError as error:
        return str(error)


def fast(data: bytes, chunk: int) -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(long_json, "_CHUNK", chunk)
        try:
            found = parse_long_json(io.BytesIO(data), "file", name="items", kind=Record)
        except BuildError as error:
            return str(error)
        return outcome(found)


def laid_out(whole: Whole, *, ascii_only: bool = False, indent: int | None = 1) -> bytes:
    text = json.dumps(asdict(whole), indent=indent, ensure_ascii=ascii_only)
    return text.encode("utf-8", "surrogatepass") + b"\n"


@settings(max_examples=150, deadline=None)
@given(WHOLES, st.integers(1, 200), st.booleans(), st.sampled_from([1, 2, None]))
def test_any_object_is_read_as_the_slow_way_reads_it(
    whole: Whole, chunk: int, ascii_only: bool, indent: int | None
) -> None:
    """However it falls into chunks, and however it is laid out."""
    data = laid_out(whole, ascii_only=ascii_only, indent=indent)
    assert fast(data, chunk) == slow(data) == whole


@settings(max_examples=400, deadline=None)
@given(WHOLES, st.integers(1, 400), st.data())
def test_damage_is_said_as_the_slow_way_says_it(
    whole: Whole, chunk: int, data: st.DataObject
) -> None:
    good = laid_out(whole)
    edits = st.tuples(st.integers(0, len(good)), st.integers(0, 12), PIECES)
    bad = good
    for at, length, piece in data.draw(st.lists(edits, min_size=1, max_size=3)):
        bad = bad[:at] + piece + bad[at + length :]
    assert fast(bad, chunk) == slow(bad)


ITEM = b'{\n   "key": "a",\n   "count": 1,\n   "index": {"name": "a", "size": 1}\n  }'
LISTED = b'\n "items": [\n  ' + ITEM + b",\n  " + ITEM


@pytest.mark.parametrize(
    "data",
    [
        b'{"first": {}, "later": {},' + LISTED + b",\n ]}",  # a comma too much
        b'{"first": {}, "later": {},' + LISTED + b'\n ], "items": []}',  # the second one counts
        b'{"items": [], "first": {}, "later": {},' + LISTED + b"\n ]}",
        b'{"first": {}, "items": [], "later": {' + LISTED + b"\n ]}}",  # not where it belongs
        b'{"first": {}, "later": {' + LISTED + b'\n ]}, "items": ' + long_json._STANDS_FOR + b"}",
        b"[" + LISTED + b"\n ]",
        LISTED + b"\n ]",
        b"[{" + LISTED + b"\n ]}]",
        b'{"first": {}, "later": {},' + LISTED.replace(b": 1,", b": 9007199254740993,") + b"\n ]}",
        b'{"first": {}, "later": {},' + LISTED.replace(b": 1,", b": true,") + b"\n ]}",
        b'{"first": {}, "later": {},' + LISTED.replace(b": 1,", b": 1.0,") + b"\n ]}",
    ],
)
@pytest.mark.parametrize("chunk", [1, 10**6])
def test_what_could_be_taken_for_the_list(data: bytes, chunk: int) -> None:
    assert fast(data, chunk) == slow(data)


@given(st.lists(RECORDS, max_size=5))
def test_records_are_written_as_json_writes_them(records: list[Record]) -> None:
    """Escapes, other alphabets, long numbers; also when there are none."""
    whole = {"items": [asdict(record) for record in records]}
    text = json.dumps(whole, indent=1, sort_keys=True, ensure_ascii=False)

    assert b'{\n "items": ' + b"".join(records_as_json(records, Record)) + b"\n}" == text.encode()


@pytest.mark.parametrize(
    "wrong",
    [
        Record(key="a", count=1, index=Stamp(name="a", size=1.5)),  # type: ignore[arg-type]
        Record(key=1, count=1, index=Stamp(name=1, size=1)),  # type: ignore[arg-type]
        Record(key="a", count=None, index=Stamp(name="a", size=1)),  # type: ignore[arg-type]
    ],
)
def test_a_value_of_another_type_is_not_written_as_something_else(wrong: Record) -> None:
    with pytest.raises(TypeError):
        list(records_as_json([wrong], Record))


def test_records_are_made_as_they_are_read() -> None:
    """Of a file that is laid out so, no item is ever a plain dict."""
    items = [
        Record(key=str(n), count=n, index=Stamp(name=str(n), size=n + 2**40)) for n in range(3000)
    ]
    data = laid_out(Whole(first={}, items=tuple(items), later={}))
    found = parse_long_json(io.BytesIO(data), "file", name="items", kind=Record)
    assert found["items"] == items and {type(item) for item in found["items"]} == {Record}
