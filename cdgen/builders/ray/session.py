"""A connection to Ray, for as long as a build needs one."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

from cdgen.builders.profile import Profile
from cdgen.builders.ray.ends import line_of
from cdgen.builders.ray.head import HeadLostError
from cdgen.errors import UsageError

NAMESPACE = "cdgen"


@contextmanager
def session(profile: Profile) -> Iterator[None]:
    """Be connected to the profile's Ray while the block runs; one that this process uses already is used, and stays.

    Raises:
        UsageError: there is none at the profile's address, or it cannot be started.
    """
    if ray.is_initialized():
        yield
        return
    # Ray reports its use to its makers unless it is told not to.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # A worker without a GPU must not see any: otherwise it would be of another numeric class than it says.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")
    options: dict[str, Any] = {"namespace": NAMESPACE, "log_to_driver": False}
    if not profile.address.startswith("ray://"):
        options["logging_level"] = logging.ERROR
    if (
        profile.address == "local"
    ):  # by that name: without one, ray joins whatever cluster runs here
        options["include_dashboard"] = None
        os.environ.pop("RAY_ADDRESS", None)  # which would join that cluster instead
    try:
        ray.init(address=profile.address, **options)
    except Exception as error:  # noqa: BLE001 - what Ray raises when it does not come up in time
        raise UsageError(
            f"no Ray at address {profile.address} (profile {profile.name}): {line_of(error)}; start one with "
            "`ray start --head` (one that has a token wants RAY_AUTH_MODE=token and the token here too), "
            "or build with --builder ray-local"
        ) from None
    try:
        yield
    except HeadLostError:
        raise  # to take one's leave of a head that is gone would wait for it
    except BaseException:
        ray.shutdown()
        raise
    ray.shutdown()
