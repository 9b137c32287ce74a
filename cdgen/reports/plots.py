"""Plots as SVG for a page with a light and a dark side.

matplotlib draws with a few stand-in colours; the SVG then says `currentColor` or a variable of the page in their
place. Text stays text. The bytes are the same for the same numbers.
"""

import io
import re
from collections.abc import Callable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from cdgen.errors import UsageError
from cdgen.reports.statistics import SourceNumbers, Spread, Statistics

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INK = "#000001"
_FAINT = "#000002"
_SERIES = tuple(f"#0000{number:02x}" for number in range(16, 24))
_COLORS = {
    _INK: "currentColor",
    _FAINT: "var(--line)",
    **{color: f"var(--series-{number})" for number, color in enumerate(_SERIES)},
}
"""Stand-in to what the page has."""

_SIZE = (4.9, 3.0)
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "cdgen",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": _INK,
    "text.parse_math": False,
    "axes.edgecolor": _FAINT,
    "axes.labelcolor": _INK,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _FAINT,
    "grid.linewidth": 0.5,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "figure.constrained_layout.use": True,
}

Draw = Callable[["Axes"], None]


def needs_matplotlib() -> None:
    """Refuse at once, before anything is counted; UsageError names the command that helps."""
    try:
        import matplotlib as _  # noqa: F401, ICN001
    except ImportError:
        raise UsageError("--html draws with matplotlib: pip install 'cdgen[report]'") from None


def plot(name: str, title: str, draw: Draw, height: float = _SIZE[1]) -> str:
    """One SVG element.

    Args:
        name: begins every id in it, so that several fit into one page.
        title: for those who do not see it.
        draw: puts the data on the axes, with the colours of `series`.
        height: inches, of a plot 4.9 inches wide.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context():
        mpl.rcdefaults()  # what a user has set must not change the page
        mpl.rcParams.update(_STYLE)
        figure = Figure(figsize=(_SIZE[0], height))
        draw(figure.add_subplot())
        file = io.StringIO()
        bare = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", metadata=bare)
    return _inlined(file.getvalue(), name, title)


def _inlined(svg: str, name: str, title: str) -> str:
    """The SVG element alone, with the page's colours and fonts, and ids of its own."""
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r' (?:width|height)="[0-9.]+pt"', "", svg, count=2)
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r"(font: ?)([^;\"]*?)([0-9.]+px)[^;\"]*", r"font-size: \3", svg)
    for color, value in _COLORS.items():
        svg = svg.replace(color, value)
    label = escape(title, quote=True)
    return svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)


def series(number: int) -> str:
    """The colour of the n-th source."""
    return _SERIES[number % len(_SERIES)]


# ---- the plots of the report ----


def plots(found: Statistics) -> dict[str, str]:
    """By the title of the section they belong to: SVG elements."""
    sources = list(enumerate(found.sources))
    drawn = [(number, one) for number, one in sources if one.drawing]
    made = {"Length": plot("length", "Lengths of documents", lambda axes: _lengths(axes, found))}
    if found.mix is not None and found.mix.parts:
        made["Mix"] = plot("mix", "Shares of the mix", lambda axes: _mix(axes, found))
    if drawn:
        made["Heads"] = plot("heads", "Sizes of heads", lambda axes: _heads(axes, found, drawn))
    if any(one.drawing and one.drawing.points for _, one in drawn):
        made["Probabilities"] = plot(
            "logp", "log p_G against log p_B", lambda axes: _points(axes, drawn)
        )
    if found.positions:
        made["Contrast by position"] = plot(
            "position", "Contrast by position", lambda axes: _positions(axes, found)
        )
    made["Diversity"] = plot("distinct", "distinct-n", lambda axes: _distinct(axes, sources))
    made["Repetition"] = plot("repeated", "Repetition", lambda axes: _repeated(axes, found))
    if any(one.num_copied_windows for one in found.copied or ()):
        made["Copying"] = plot("copying", "Copied windows", lambda axes: _copied(axes, found))
    if found.built and len(found.built.decoded) > 1:
        made["Build"] = plot(
            "build", "Tokens decoded over time", lambda axes: _decoded(axes, found)
        )
    return made


def _histogram(
    axes: "Axes", spread: Spread, edges: Sequence[float], number: int, label: str
) -> None:
    total = max(sum(spread.counts), 1)
    shares = [100 * count / total for count in spread.counts]
    axes.stairs(shares, edges, color=series(number), label=label, linewidth=1.8)
    axes.stairs(shares, edges, fill=True, color=series(number), alpha=0.18)
    axes.set_ylabel("documents, %")


def _lengths(axes: "Axes", found: Statistics) -> None:
    for number, one in enumerate(found.sources):
        _histogram(axes, one.lengths, found.edges["lengths"], number, one.label)
    _log_x(axes)
    axes.set_xlabel("tokens of a document")
    axes.legend()


def _log_x(axes: "Axes") -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=12))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="x", labelrotation=30)


def _mix(axes: "Axes", found: Statistics) -> None:
    parts = found.mix.parts if found.mix else ()
    for row, (name, alpha) in enumerate((("nominal", 0.45), ("realised", 1.0))):
        left = 0.0
        for number, part in enumerate(parts):
            share = 100 * getattr(part, name)
            label = part.source if row else None
            axes.barh(1 - row, share, left=left, color=series(number), alpha=alpha, label=label)
            left += share
    axes.set_yticks([1, 0], ["asked for", "realised"])
    axes.grid(visible=False, axis="y")
    axes.set_xlim(0, 100)
    axes.set_xlabel(f"% of {found.mix.unit if found.mix else ''}")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.25), ncols=4)


Sources = Sequence[tuple[int, SourceNumbers]]


def _heads(axes: "Axes", found: Statistics, drawn: Sources) -> None:
    for number, one in drawn:
        assert one.drawing is not None
        _histogram(axes, one.drawing.heads, found.edges["heads"], number, one.label)
    _log_x(axes)
    axes.set_xlabel("mean tokens in the head")
    axes.legend()


def _points(axes: "Axes", drawn: Sources) -> None:
    every = [point for _, one in drawn if one.drawing for point in one.drawing.points]
    low = min(min(point) for point in every)
    high = max(max(point) for point in every)
    axes.plot([low, high], [low, high], color=_INK, linewidth=0.8, linestyle="--", alpha=0.6)
    for number, one in drawn:
        points = one.drawing.points if one.drawing else ()
        size = 14 if len(points) < 200 else 5
        axes.scatter(
            [x for x, _ in points], [y for _, y in points],
            s=size, color=series(number), alpha=0.5, linewidths=0, label=one.label,
        )  # fmt: skip
    axes.set_xlabel("mean log p_B, amateur")
    axes.set_ylabel("mean log p_G, expert")
    axes.locator_params(nbins=6)
    axes.legend(markerscale=2.5)


def _positions(axes: "Axes", found: Statistics) -> None:
    places = [one.position + 1 for one in found.positions]
    axes.plot(
        places, [one.logp_expert for one in found.positions], color=series(0), label="log p_G"
    )
    if found.positions[0].logp_amateur is not None:
        amateur = [one.logp_amateur or 0.0 for one in found.positions]
        gaps = [g.logp_expert - b for g, b in zip(found.positions, amateur, strict=True)]
        axes.plot(places, amateur, color=series(1), label="log p_B")
        axes.plot(places, gaps, color=series(2), label="contrast")
    axes.axhline(0, color=_INK, linewidth=0.8, alpha=0.6)
    axes.set_xlabel("token after the prefix")
    axes.legend(ncols=3, loc="upper center", bbox_to_anchor=(0.5, 1.18))


def _distinct(axes: "Axes", sources: Sources) -> None:
    width = 0.8 / len(sources)
    for number, one in sources:
        places = [n + (number - (len(sources) - 1) / 2) * width for n in range(len(one.distinct))]
        shares = [100 * share for share in one.distinct]
        axes.bar(places, shares, width * 0.9, color=series(number), label=one.label)
    axes.set_xticks(range(4), [f"distinct-{n}" for n in range(1, 5)])
    axes.grid(visible=False, axis="x")
    axes.set_ylabel("different n-grams, %")
    axes.legend()


def _repeated(axes: "Axes", found: Statistics) -> None:
    edges = [100 * edge for edge in found.edges["repeated"]]
    for number, one in enumerate(found.sources):
        _histogram(axes, one.repeated, edges, number, one.label)
    axes.set_xlabel("% of tokens in repeated 4-grams")
    axes.legend()


def _copied(axes: "Axes", found: Statistics) -> None:
    copied = [one for one in found.copied or () if one.num_windows]
    shares = [100 * one.num_copied_windows / one.num_windows for one in copied]
    axes.bar(range(len(copied)), shares, 0.7, color=series(1))
    axes.set_xticks(range(len(copied)), [str(one.length) for one in copied])
    axes.grid(visible=False, axis="x")
    axes.set_xlabel("tokens of a window")
    axes.set_ylabel("copied windows, %")
    axes.set_ylim(bottom=0)


def _decoded(axes: "Axes", found: Statistics) -> None:
    decoded = found.built.decoded if found.built else ()
    seconds = [0.0, *(one.seconds for one in decoded)]
    tokens = [0, *(one.num_tokens for one in decoded)]
    axes.step(seconds, tokens, where="post", color=series(0), linewidth=1.8)
    axes.plot(seconds, tokens, "o", color=series(0), markersize=3)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.locator_params(axis="x", nbins=6)
    axes.set_xlabel("seconds since the build began")
    axes.set_ylabel("synthetic tokens")
