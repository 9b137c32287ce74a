"""Whether a profile's Ray can be reached, asked without Ray: before hours of work, and before Ray waits for nobody."""

import os
import socket
from importlib.util import find_spec

from cdgen.builders.profile import Profile
from cdgen.errors import UsageError

ANSWER_S = 10.0
"""How long a machine may take to say that somebody listens."""


def check_reachable(profile: Profile) -> None:
    """Refuse a profile of engine ray without ray, and an address where nobody answers.

    There Ray would try for two minutes, and then end the process.

    Raises:
        UsageError: says which.
    """
    if find_spec("ray") is None:
        raise UsageError(
            f"profile {profile.name} has engine: ray, which is not installed here: pip install 'cdgen[ray]'"
        )
    address = profile.address
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS", "")
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        return  # Ray starts its own, or looks for one
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_S).close()
    except OSError as error:
        why = f"{error}" if profile.address != "auto" else f"RAY_ADDRESS={address}: {error}"
        raise UsageError(no_ray(profile, why)) from None


def no_ray(profile: Profile, why: str) -> str:
    """What is said where there is no Ray."""
    return (
        f"no Ray at address {profile.address} (profile {profile.name}): {why}; start one with "
        "`ray start --head` (one that has a token wants RAY_AUTH_MODE=token and the token here too), "
        "or build with --builder ray-local"
    )
