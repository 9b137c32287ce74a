"""The command line: one short function per verb. Data on stdout, progress on stderr, errors as one line.

Exit codes: 0 done; 1 failed, or incomplete; 2 wrong usage, found before any work; 130 interrupted.
"""

import sys
from typing import Annotated

import typer

from cdgen import __version__

# In the order of `cdgen --help`.
from cdgen.cli import (
    building,
    corpora,
    evaluation,
    preview,
    publish,
    remove,
    runs,
    speed,
    stats,
    stream,
    sweep,
    tools,
)
from cdgen.cli.shared import app
from cdgen.errors import CdgenError

__all__ = [
    "app",
    "building",
    "corpora",
    "evaluation",
    "main",
    "preview",
    "publish",
    "remove",
    "runs",
    "speed",
    "stats",
    "stream",
    "sweep",
    "tools",
]


def main() -> None:
    """Run the command line; what a user can cause is one line on stderr, never a traceback."""
    try:
        app()
    except CdgenError as error:
        print(f"cdgen: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    if version:
        print(f"cdgen {__version__}")
        raise typer.Exit
