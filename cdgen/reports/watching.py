"""`cdgen status --watch`: a build's state, drawn again every two seconds until it no longer runs."""

import time
from collections.abc import Callable
from typing import TextIO

from rich.console import Console
from rich.live import Live
from rich.text import Text

from cdgen.builders.status import Watch
from cdgen.reports.summary import status_text

EVERY_S = 2.0


def watch_build(
    seen: Watch, stream: TextIO, *, sleep: Callable[[float], object] = time.sleep
) -> None:
    """Draw over the last picture on a terminal, print one picture after the other elsewhere."""
    console = Console(file=stream, highlight=False)
    state = seen.look()
    with Live(Text(status_text(state)), console=console, auto_refresh=False) as live:
        while state.state == "running":
            sleep(EVERY_S)
            state = seen.look()
            live.update(Text(status_text(state)), refresh=True)
