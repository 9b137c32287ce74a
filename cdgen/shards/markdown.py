"""Text from strangers as Markdown that shows it and does nothing else."""

import re
import unicodedata
from collections.abc import Iterable

_MARKED = re.compile(r"([\\`*_\[\]<>|#~$&!@])")
_JOINERS = "\u200c\u200d"
_LINE_START = re.compile(r"^(\d+(?=[.)])|(?=[-+=]))")


def plain(text: str) -> str:
    """`text` on one line, with every character that Markdown or HTML would take as a mark escaped."""
    line = " ".join(visible(text).split())
    number = _LINE_START.match(line)
    marked = _MARKED.sub(r"\\\1", line)
    if number is None:
        return marked
    return f"{number[0]}\\{marked[len(number[0]) :]}"


def paragraphs(text: str) -> str:
    """`text` with its paragraphs kept and everything else `plain`."""
    return "\n\n".join(plain(one) for one in re.split(r"\n\s*\n", text.strip()) if one.strip())


def code(text: str) -> str:
    """`text` as a span of code, also within a table."""
    kept = re.sub(r"[`|]", "", " ".join(visible(text).split()))
    return f"`{kept}`" if kept else ""


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A table of cells that are Markdown already."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def visible(text: str) -> str:
    """Without characters that cannot be seen and can turn a line around; joiners, which scripts need, stay."""
    return "".join(
        " " if char.isspace() else char
        for char in text
        if char.isspace()
        or char in _JOINERS
        or unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Co", "Cn")
    )
