"""An explained sample in colour: each drawn token by its contrast, log p_G - log p_B, on a terminal or as a page."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from cdgen.reports.page import page, quiet, section, text
from cdgen.reports.terminal import harmless

if TYPE_CHECKING:
    from cdgen.builders.trace import Step

WEAK, STRONG = 0.25, 1.0
"""Nats of contrast from which a token is coloured, and from which strongly."""

_TERMINAL = {
    "for-2": "bold green",
    "for-1": "green",
    "": "",
    "against-1": "yellow",
    "against-2": "bold red",
}
_MEANING = {
    "for-2": f"above {STRONG:+g}",
    "for-1": f"above {WEAK:+g}",
    "": "between",
    "against-1": f"below {-WEAK:+g}",
    "against-2": f"below {-STRONG:+g}",
}


def shade(step: "Step") -> str:
    """How strongly the contrast speaks for a token or against it: for-2, for-1, "", against-1 or against-2."""
    if step.logp_amateur is None:
        return ""
    contrast = step.logp_expert - step.logp_amateur
    if abs(contrast) <= WEAK:
        return ""
    return f"{'for' if contrast > 0 else 'against'}-{2 if abs(contrast) > STRONG else 1}"


def explained_text(steps: Sequence["Step"], *, width: int) -> str:
    """The drawn tokens in a terminal's colours, and what these mean.

    Args:
        steps: of one sample.
        width: of the terminal, in characters.
    """
    shown = Text()
    for step in steps:
        shown.append(harmless(step.token), style=_TERMINAL[shade(step)])
    legend = Text().append("contrast in nats: ", style="dim")
    for name, meaning in _MEANING.items():
        legend.append(meaning, style=_TERMINAL[name]).append("  ")
    file = io.StringIO()
    console = Console(file=file, width=width, force_terminal=True, color_system="standard")
    console.print(shown, legend, sep="\n\n", highlight=False)
    return file.getvalue().rstrip("\n")


def explained_page(key: str, steps: Sequence["Step"]) -> str:
    """The same as a page, with every token's numbers."""
    tokens = "".join(_token(step) for step in steps)
    legend = "".join(
        f'<span class="{name}">{text(meaning)}</span>' for name, meaning in _MEANING.items()
    )
    return page(
        f"{key}: explained",
        (
            f"<header><h1>{text(key)}</h1>",
            quiet("each drawn token by its contrast, log p_G - log p_B, in nats"),
            f'<p class="quiet key">{legend}</p></header>',
            section("Text", f'<p class="tokens">{tokens}</p>'),
            section("Tokens", _table(steps)),
        ),
    )  # fmt: skip


def _token(step: "Step") -> str:
    amateur = "" if step.logp_amateur is None else f", log p_B {step.logp_amateur:.3f}"
    says = f"log p_G {step.logp_expert:.3f}{amateur}, head of {step.head_size}"
    return f'<span class="{shade(step)}" title="{text(says)}">{text(step.token)}</span>'


def _table(steps: Sequence["Step"]) -> str:
    rows = "\n".join(_row(step) for step in steps)
    head = ("token", "log p_G", "log p_B", "contrast", "head", "plain sampling draws")
    top = "".join(f'<th scope="col">{name}</th>' for name in head)
    return f'<div class="scroll"><table>\n<thead><tr>{top}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table></div>'


def _row(step: "Step") -> str:
    amateur = contrast = "-"
    if step.logp_amateur is not None:
        amateur = f"{step.logp_amateur:.3f}"
        contrast = f"{step.logp_expert - step.logp_amateur:+.3f}"
    plain = "the same" if step.plain == step.token else repr(step.plain)
    return (
        f'<tr><td class="token"><span class="{shade(step)}">{text(repr(step.token))}</span></td>'
        f"<td>{step.logp_expert:.3f}</td><td>{amateur}</td><td>{contrast}</td><td>{step.head_size:,}</td>"
        f'<td class="token">{text(plain)}</td></tr>'
    )
