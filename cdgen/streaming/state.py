"""Where a run stands: the first block that was not taken, and of which stream. Loading it takes no time."""

from collections.abc import Mapping
from typing import Any

from cdgen.errors import UsageError

STATE_VERSION = 1

Fingerprint = Mapping[str, Any]
"""What the order is a function of: JSON values by name."""


def state_of(block: int, fingerprint: Fingerprint) -> dict[str, Any]:
    """The state of a run that goes on with `block`."""
    return {"version": STATE_VERSION, "block": block, "fingerprint": dict(fingerprint)}


def block_of(state: Mapping[str, Any], fingerprint: Fingerprint) -> int:
    """The block that a state goes on with.

    Raises:
        UsageError: it is no state, of a newer version, or of another stream; says what differs.
    """
    version, block, theirs = (state.get(name) for name in ("version", "block", "fingerprint"))
    if (
        not isinstance(version, int)
        or not isinstance(block, int)
        or not isinstance(theirs, Mapping)
    ):
        raise UsageError(
            f"not a state of a cdgen stream: it has {', '.join(map(str, state))[:120] or 'nothing'}"
        )
    if version > STATE_VERSION:
        raise UsageError(
            f"a state of version {version}; this cdgen reads up to {STATE_VERSION}: upgrade cdgen"
        )
    for name in (*fingerprint, *theirs):
        ours, other = fingerprint.get(name), theirs.get(name)
        if ours != other:
            raise UsageError(
                f"the state is of another stream: its {name} is {_short(other)}, here it is {_short(ours)}"
            )
    if block < 0:
        raise UsageError(f"a state's block is not negative, found {block}")
    return block


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 120 else text[:117] + "..."
