"""Commands of cdgen in processes of their own, forked from one that has torch loaded; they die with this process.

What a command says goes to its log. A job that is killed, runs out of memory or crashes takes nothing with it.
"""

import multiprocessing
import os
import sys
import threading
from multiprocessing.connection import Connection, wait
from pathlib import Path

import click

WARM = ["cdgen.builders.warm", "cdgen.cli"]


class Children:
    """Runs one command after the other."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(WARM)

    def __call__(self, job: str, arguments: list[str], log: Path) -> str | None:
        """Run `cdgen ARGUMENTS`; None when it was done, or what went wrong, as one line."""
        ours, theirs = self._context.Pipe(duplex=False)
        with ours, theirs:
            child = self._context.Process(
                target=_child, args=(arguments, str(log), theirs), name=job
            )
            child.start()
            theirs.close()
            try:
                child.join()
            except BaseException:
                child.kill()
                raise
            try:
                said = str(ours.recv())
            except EOFError:  # it had nothing to say
                said = ""
        if child.exitcode == 0:
            return None
        return said or f"its process ended with {_ended(child.exitcode)}"


def _ended(code: int | None) -> str:
    return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"


def _child(arguments: list[str], log: str, failed: Connection) -> None:
    """The child: the command, its streams in the log; what a user can act on goes through the pipe."""
    _die_with_the_parent()
    with open(log, "a", encoding="utf-8") as stream:  # noqa: PTH123 - a descriptor is what is wanted
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    print(f"$ cdgen {' '.join(arguments)}", file=sys.stderr, flush=True)
    said = run_here(arguments)
    if said is not None:
        failed.send(said)
    raise SystemExit(said is not None)


def run_here(arguments: list[str]) -> str | None:
    """Run `cdgen ARGUMENTS` in this process; None when it was done, or what went wrong, as one line."""
    from cdgen.cli import app
    from cdgen.errors import CdgenError

    try:
        code = app(args=arguments, prog_name="cdgen", standalone_mode=False)
    except CdgenError as error:
        said = str(error)
    except click.ClickException as error:
        said = error.format_message()
    else:
        return f"exit code {code}" if isinstance(code, int) and code else None
    print(f"cdgen: {said}", file=sys.stderr, flush=True)
    return said


def _die_with_the_parent() -> None:
    """End this process when the sweep's does, however that ends: kill -9 leaves no job behind."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
