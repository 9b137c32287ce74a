"""A JSON object with one long list of records, in pieces: neither its text nor plain values of it are held whole.

Pydantic's core parses a piece and makes its records, in a fifth of the time of `json` and `typed`. Where it sees
anything amiss the whole is read the slow way, which knows what is allowed, and how to say what is not. Records are
written through a template: `json` indents in Python, a value at a time.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import fields
from functools import cache
from json.encoder import encode_basestring
from operator import attrgetter
from typing import TYPE_CHECKING, Any, BinaryIO, get_type_hints

from cdgen.errors import BuildError
from cdgen.storage.jsons import LARGEST_INTEGER, parse_json

if TYPE_CHECKING:
    from pydantic_core import CoreSchema, SchemaValidator

_CHUNK = 1 << 20
"""Bytes that are read at a time."""
_STANDS_FOR = b'"\x7f the list is elsewhere"'


def records_as_json(records: Iterable[object], kind: type) -> Iterator[bytes]:
    """A list of records in pieces, one each, as it stands in an object that `json` indents by 1, keys sorted.

    Args:
        records: of the dataclass `kind`, as `parse_long_json` reads them.
        kind: has fields of str, int and such dataclasses; two at least that are no dataclass.

    Raises:
        TypeError: a field is of another type.
        UnicodeEncodeError: text that UTF-8 cannot hold.
    """
    indented = json.dumps(_shape(kind), indent=1, sort_keys=True).replace("\n", "\n  ")
    template = "\n  " + indented.replace('"%s"', "%s")
    leaves = dict(_leaves(kind))
    values, writers = attrgetter(*leaves), tuple(leaves.values())
    before = "["
    for record in records:
        row = [write(value) for write, value in zip(writers, values(record), strict=True)]
        yield (before + template % tuple(row)).encode()
        before = ","
    yield b"[]" if before == "[" else b"\n ]"


_WRITERS = {str: encode_basestring, int: int.__repr__}


def _shape(kind: type) -> dict[str, Any]:
    """A record with %s in each value's place."""
    return {
        name: "%s" if hint in _WRITERS else _shape(hint)
        for name, hint in get_type_hints(kind).items()
    }


def _leaves(kind: type, parents: str = "") -> Iterator[tuple[str, Any]]:
    """(where a value is in a record, what writes it) in the order of sorted keys."""
    for name, hint in sorted(get_type_hints(kind).items()):
        if hint in _WRITERS:
            yield parents + name, _WRITERS[hint]
        else:
            yield from _leaves(hint, f"{parents}{name}.")


def parse_long_json(file: BinaryIO, where: object, *, name: str, kind: type) -> Any:
    """The value of a JSON file, as `parse_json` gives it of all its bytes.

    But the items of the list `name`, a field of the object that the file is, may be of the dataclass `kind` already,
    which then has fields of str, int and such dataclasses. They are if the file is indented as `write_manifest`
    does it and every item is what `typed` would accept.
    """
    try:
        return _in_pieces(file, name, kind)
    except (ValueError, BuildError):
        file.seek(0)
        return parse_json(file.read(), where)


def _in_pieces(file: BinaryIO, name: str, kind: type) -> Any:
    """As `parse_long_json`; ValueError or BuildError where the layout or a value is another.

    A line's end is never inside a JSON string, so where these marks stand there is a bracket, a name, a comma: an
    object that is whole with something simple in the list's place, and pieces that are lists, are together the file.
    """
    opening, ends, between = f'\n "{name}": ['.encode(), b"\n ]", b"\n  },"
    before, text = _until(file, opening)
    items: list[Any] = []
    while (end := text.find(ends)) < 0:
        cut = text.rfind(between) + len(between) - 1
        if text[cut : cut + 1] == b"," and cut > 0:
            items += _items(text[:cut], kind)
            text = text[cut + 1 :]
        text += _read(file)
    items += _items(text[:end], kind)
    rest = text[end + len(ends) :] + file.read()
    if _STANDS_FOR in before or _STANDS_FOR in rest:
        raise ValueError("no text may look as what stands for the list")
    value = parse_json(before + opening[:-1] + _STANDS_FOR + rest, "")
    if not isinstance(value, dict) or value.get(name) != _STANDS_FOR.decode()[1:-1]:
        raise ValueError("the list is somewhere else")
    return {**value, name: items}


def _until(file: BinaryIO, mark: bytes) -> tuple[bytes, bytes]:
    """What stands before a mark, and what was read of what follows it."""
    text = _read(file)
    while (at := text.find(mark)) < 0:
        text += _read(file)
    return text[:at], text[at + len(mark) :]


def _read(file: BinaryIO) -> bytes:
    data = file.read(_CHUNK)
    if not data:
        raise ValueError("the file is cut, or laid out in another way")
    return data


def _items(text: bytes, kind: type) -> list[Any]:
    """The records of a piece of the list, at least one."""
    found: list[Any] = _validator(kind).validate_json(b"[" + text + b"]")
    if not found:
        raise ValueError("a comma that nothing follows")
    return found


@cache
def _validator(kind: type) -> "SchemaValidator":
    from pydantic_core import SchemaValidator, core_schema

    return SchemaValidator(core_schema.list_schema(_schema(kind)))


def _schema(kind: type) -> "CoreSchema":
    """What `typed` accepts as such a value."""
    from pydantic_core import core_schema as core

    if kind is str:
        return core.str_schema(strict=True)
    if kind is int:
        return core.int_schema(strict=True, ge=-LARGEST_INTEGER, le=LARGEST_INTEGER)
    hints, names = get_type_hints(kind), [item.name for item in fields(kind)]
    given = [core.dataclass_field(name, _schema(hints[name]), kw_only=True) for name in names]
    return core.dataclass_schema(
        kind,
        core.dataclass_args_schema(kind.__name__, given, extra_behavior="forbid"),
        names,
        post_init=hasattr(kind, "__post_init__"),
        strict=True,
        frozen=True,
        slots=True,
    )
