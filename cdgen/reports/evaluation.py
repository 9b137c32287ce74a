"""The table of `cdgen eval`: every score with its floors beside it."""

from collections.abc import Mapping
from typing import Any

_PLAIN = ("wug_adj", "perplexity")
"""Not a share: shown as it is, not in percent."""


def evaluation_text(name: str, where: object, tasks: Mapping[str, Mapping[str, Any]]) -> str:
    """One checkpoint's results, for a terminal."""
    rows: list[tuple[str, ...]] = [
        ("task", "score", "chance", "untrained", "a rule without a model", "items")
    ]
    rows += [_row(task, found) for task, found in tasks.items()]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(_aligned(row, widths)).rstrip() for row in rows]
    notes = [
        f"{task}: {found['texts_beyond_context']:,} texts are longer than the model was trained to read"
        for task, found in tasks.items()
        if "texts_beyond_context" in found
    ]
    return "\n".join([name, *lines, *notes, f"written to {where}"])


def _aligned(row: tuple[str, ...], widths: list[int]) -> list[str]:
    return [
        cell.ljust(width) if column in (0, 4) else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]


def _row(task: str, found: Mapping[str, Any]) -> tuple[str, ...]:
    floor = found["floor"] or {}
    untrained, rule = floor.get("untrained"), floor.get("rule")
    shown = _shown(task, found["score"])
    if found.get("limit") is not None:
        task = f"{task} (first {found['limit']} of each part)"
    return (
        task,
        shown,
        _shown(task, floor.get("chance")),
        "-"
        if untrained is None
        else f"{_shown(task, untrained[0])} to {_shown(task, untrained[1])}",
        "-" if rule is None else f"{_shown(task, rule[1])} {rule[0]}",
        f"{found['items']:,}",
    )


def _shown(task: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if task.startswith(_PLAIN) else f"{100 * value:.2f}"
