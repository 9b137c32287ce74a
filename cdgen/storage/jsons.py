"""JSON that is written one way only, and read without trust: a wrong type is a `BuildError` of one line."""

import json
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from cdgen.errors import BuildError

LARGEST_INTEGER = 2**53
"""Larger integers are not exact in every JSON reader."""


def canonical_json(value: object) -> bytes:
    """The one way to write `value` as JSON: sorted keys, no spaces, UTF-8, floats by repr.

    Raises:
        ValueError: NaN, an infinity, or text that UTF-8 cannot hold.
        TypeError: a key that is not a string, or a value that JSON has no word for.
    """
    _check_keys(value)
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode()


def _check_keys(value: object) -> None:
    """json.dumps would turn the key 1 into "1", and then two keys can be one."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise TypeError(f"a JSON key must be a string, found {key!r}")
            _check_keys(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            _check_keys(inner)


def parse_json(data: bytes, where: object) -> Any:
    """The value of JSON bytes that may be hostile; `where` names them in the BuildError."""
    try:
        value = json.loads(data.decode(), parse_constant=_refuse_constant)
        if b"\\u" in data:  # an escaped lone surrogate can be read, but neither written nor printed
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise BuildError(f"{where}: not valid JSON: nested too deeply") from None
    except ValueError as error:
        raise BuildError(f"{where}: not valid JSON: {str(error).splitlines()[0][:120]}") from None
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def typed(kind: Any, value: object, where: str) -> Any:
    """Check `value`, parsed JSON, against the type `kind`, and return it as that type.

    Args:
        kind: str, int, float, bool, Any, `X | None`, dict, tuple, or a dataclass of these.
        value: what the JSON holds.
        where: names the value in the error.

    Raises:
        BuildError: another type, an unknown or a missing field; `where` and the field are in the message.
    """
    if _is(kind, value):
        return value
    origin, args, is_class = _parts(kind)
    if is_class:
        return _typed_dataclass(kind, value, where)
    if origin is UnionType:
        return None if value is None else typed(args[0], value, where)
    if origin is dict:
        return {
            key: item if _is(args[1], item) else typed(args[1], item, f"{where}.{key}")
            for key, item in _expect(dict, value, where).items()
        }
    if origin is tuple:
        return tuple(
            item if _is(args[0], item) else typed(args[0], item, f"{where}[{i}]")
            for i, item in enumerate(_expect(list, value, where))
        )
    if kind is Any:
        return value
    if kind is float and type(value) is int and abs(value) <= LARGEST_INTEGER:
        return float(value)
    if kind is int and type(value) is int and abs(value) > LARGEST_INTEGER:
        raise BuildError(f"{where}: an integer beyond 2^53")
    return _expect(kind, value, where)


def _is(kind: Any, value: Any) -> bool:
    """Whether a value is right as it is, as most are: what an error would call it need not be put together."""
    return type(value) is kind and (kind is not int or -LARGEST_INTEGER <= value <= LARGEST_INTEGER)


def _expect(kind: type, value: object, where: str) -> Any:
    if type(value) is not kind:
        raise BuildError(
            f"{where}: expected {_WORDS[kind]}, found {_WORDS.get(type(value), 'something else')}"
        )
    return value


_WORDS: dict[type, str] = {
    str: "a string", int: "an integer", float: "a number", bool: "true or false",
    dict: "an object", list: "a list", NoneType: "null",
}  # fmt: skip


@cache
def _parts(kind: Any) -> tuple[Any, tuple[Any, ...], bool]:
    """(origin, arguments, whether it is a dataclass) of a type."""
    return get_origin(kind), get_args(kind), is_dataclass(kind)


@cache
def _fields(kind: Any) -> tuple[dict[str, Any], frozenset[str]]:
    """(types by name, the names that must be given) of a dataclass: asked for once per shard of a manifest."""
    needed = (
        item.name
        for item in fields(kind)
        if item.default is MISSING and item.default_factory is MISSING
    )
    return get_type_hints(kind), frozenset(needed)


def _typed_dataclass(kind: Any, value: object, where: str) -> Any:
    given = _expect(dict, value, where)
    hints, needed = _fields(kind)
    for name in given:
        if name not in hints:
            raise BuildError(f"{where}: unknown field {name[:60]!r}")
    for name in hints:
        if name in needed and name not in given:
            raise BuildError(f"{where}: the field {name!r} is missing")
    values = {
        name: item if _is(hints[name], item) else typed(hints[name], item, f"{where}: {name}")
        for name, item in given.items()
    }
    try:
        return kind(**values)
    except ValueError as error:
        raise BuildError(f"{where}: {error}") from None


def check_format(value: object, newest: int, where: str) -> dict[str, Any]:
    """`value` without its field "format", after checking that this cdgen reads that version."""
    given = dict(_expect(dict, value, where))
    found = _expect(int, given.pop("format", None), f"{where}: format")
    if not 1 <= found <= newest:
        raise BuildError(
            f"{where}: format {found}; this cdgen reads formats 1 to {newest}: upgrade cdgen"
        )
    return given
