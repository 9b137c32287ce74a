"""Whether a profile's Ray can be reached, found out without joining it: before hours of work, and before Ray waits."""

import os
import socket
from importlib.util import find_spec

from cdgen.builders.profile import Profile
from cdgen.errors import UsageError

ANSWER_S = 10.0
"""How long a machine may take to say that somebody listens."""


def check_reachable(profile: Profile) -> None:
    """Refuse a profile of engine ray without ray, an address where nobody answers, and `auto` where no cluster is.

    Where nobody answers Ray would try for two minutes, and then end the process.

    Raises:
        UsageError: says which.
    """
    if find_spec("ray") is None:
        raise UsageError(
            f"profile {profile.name} has engine: ray, which is not installed here: pip install 'cdgen[ray]'"
        )
    address, by = _resolved(profile)
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        return  # Ray starts its own, or looks for one in a way of its own
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_S).close()
    except OSError as error:
        raise UsageError(no_ray(profile, f"{by}{error}")) from None


def _resolved(profile: Profile) -> tuple[str, str]:
    """(the address that Ray would take, "" where that cannot be told; what names it, for a message).

    Raises:
        UsageError: it is `auto`, and there is no cluster.
    """
    if profile.address != "auto":
        return profile.address, ""
    named = os.environ.get("RAY_ADDRESS", "")
    if named not in ("", "auto"):
        return named, f"RAY_ADDRESS={named}: "
    from cdgen.builders.ray.auto import found

    try:
        address = found() or ""
    except ConnectionError:
        raise UsageError(no_ray(profile, "this machine is part of none")) from None
    return address, f"the last one here was at {address}: "


def no_ray(profile: Profile, why: str) -> str:
    """What is said where there is no Ray."""
    return (
        f"no Ray at address {profile.address} (profile {profile.name}): {why}; start one with "
        "`ray start --head` (one that has a token wants RAY_AUTH_MODE=token and the token here too), "
        "or build with --builder ray-local"
    )
