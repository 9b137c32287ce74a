"""Where Ray looks for a cluster when its address is `auto`."""

from typing import Any

import ray


def found() -> str | None:
    """HOST:PORT of the cluster that `ray.init("auto")` would join here; None where that cannot be told.

    Ray's own answer, by its processes on this machine and the file that `ray start` leaves; nothing is asked over the
    network, and nothing started. The cluster may be gone: the file outlives it.

    Raises:
        ConnectionError: there is none.
    """
    if ray.is_initialized():  # that one is used
        return None
    try:
        # Nothing public tells it. A Ray that knows these by other names tells when it is joined.
        from ray._private import services

        getattr(services.find_gcs_addresses, "cache_clear", _nothing)()  # clusters end
        address: Any = services.canonicalize_bootstrap_address("auto")
    except ConnectionError:
        raise
    except Exception:  # noqa: BLE001 - whatever another version makes of the call
        return None
    return address if isinstance(address, str) else None


def _nothing() -> None:
    """What is to be done where nothing is remembered."""
