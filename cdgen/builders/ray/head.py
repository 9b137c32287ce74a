"""Whether the head of a cluster is there: a question to Ray would wait for one that is not."""

import os
import socket
from collections.abc import Callable

from cdgen.errors import BuildError

HEAD_GONE_S = float(os.environ.get("RAY_gcs_rpc_server_reconnect_timeout_s", "60")) / 2  # noqa: SIM112 - Ray's name
"""How long the head of a cluster may not answer: half of Ray's patience, after which it ends the process wordlessly."""
LOOK_EVERY_S = 2.0
"""How often anything is asked of the cluster itself."""


class HeadLostError(BuildError):
    """The head of the cluster does not answer any more; every question to Ray would wait for it."""


class Head:
    """Whether the head of a cluster answers, asked beside Ray.

    Args:
        address: of the head, HOST:PORT; None where only Ray's client reaches it, which says itself that it is gone.
        clock: seconds, from any fixed moment.
    """

    def __init__(self, address: str | None, clock: Callable[[], float]) -> None:
        self._address, self._clock = address, clock
        self._next_look_s = self._gone_since_s = clock()
        self.answers = True

    def look(self) -> None:
        """Ask now and then. Raises: as `ask`."""
        if self._clock() >= self._next_look_s:
            self.ask()

    def ask(self) -> None:
        """Ask at once, as before everything that would wait for the head.

        Raises:
            HeadLostError: it has not answered for `HEAD_GONE_S`.
        """
        now = self._clock()
        self._next_look_s = now + LOOK_EVERY_S / 2
        if self._address is None:
            return
        host, _, port = self._address.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=1).close()
        except OSError as error:
            if self.answers:
                self.answers, self._gone_since_s = False, now
            if now - self._gone_since_s < HEAD_GONE_S:
                return
            raise HeadLostError(
                f"the head of the Ray cluster, {self._address}, has not answered for {HEAD_GONE_S:.0f} s "
                f"({error}); finished shards are kept: start a cluster, and then the same command again"
            ) from None
        self.answers = True
