"""A preview for people: columns side by side where the terminal is wide enough, one text below the other elsewhere."""

import io
import textwrap

from rich.console import Console
from rich.table import Table
from rich.text import Text

from cdgen.builders.preview import Continuation, Preview, Previewed
from cdgen.reports.health import health_text

COLUMN = 30
"""Characters that a column needs to be read with ease."""
STACKED = 100
"""Characters of a line without a terminal."""


def preview_text(preview: Preview, width: int | None) -> str:
    """`cdgen preview`.

    Args:
        preview: what was decoded.
        width: of the terminal, in characters; None = there is none.
    """
    columns = len(preview.prefixes[0].continuations)
    wide = width is not None and width >= COLUMN * columns
    shown = [
        _side_by_side(one, width)
        if wide and width
        else _stacked(one, min(width or STACKED, STACKED))
        for one in preview.prefixes
    ]
    return "\n\n".join([*shown, _footer(preview)])


def _side_by_side(one: Previewed, width: int) -> str:
    table = Table(
        title=Text(f"[{_clean(one.prefix)}]"), title_justify="left", expand=True, title_style=""
    )
    for found in one.continuations:
        table.add_column(Text(_head(found)), ratio=1, overflow="fold")
    table.add_row(*(Text(_body(found)) for found in one.continuations))
    text = io.StringIO()
    Console(file=text, width=width, color_system=None, force_terminal=False).print(table)
    return text.getvalue().rstrip("\n")


def _stacked(one: Previewed, width: int) -> str:
    lines = [*_wrapped(f"[{_clean(one.prefix)}]", width, "")]
    for found in one.continuations:
        lines += [f"{_head(found)}:", *_wrapped(_body(found), width, "  ")]
    return "\n".join(lines)


def _wrapped(text: str, width: int, indent: str) -> list[str]:
    return [
        line
        for paragraph in text.splitlines()
        for line in textwrap.wrap(
            paragraph, max(width, 20), initial_indent=indent, subsequent_indent=indent
        )
        or [""]
    ]


def _head(found: Continuation) -> str:
    return f"{found.method} ({found.repetition:.0%} repeated)"


def _body(found: Continuation) -> str:
    return _clean(found.text).strip() + (" ■" if found.ended else " …")


def _clean(text: str) -> str:
    """Without what could steer a terminal: a model may write anything."""
    return "".join(c if c == "\n" or c.isprintable() else " " for c in text).strip()


def _footer(preview: Preview) -> str:
    if preview.health is None:
        health = "contrast: not measured, there is no eval text"
    else:
        health = f"contrast: {health_text(preview.health)}"
    warnings = [f"warning: {line}" for line in preview.findings]
    marks = "■ end of text, … goes on; the same random numbers in every column"
    return "\n".join([health, *warnings, f"engine: {preview.engine}", marks])
