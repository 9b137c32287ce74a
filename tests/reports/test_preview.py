"""How a preview is printed: side by side on a wide terminal, stacked elsewhere, harmless always."""

import dataclasses

from cdgen.builders.preflight import Measured
from cdgen.builders.preview import Continuation, Preview, Previewed
from cdgen.reports.preview import preview_text

HEALTH = Measured(
    num_documents=4,
    num_positions=100,
    expert_nats=3.0,
    amateur_nats=3.25,
    kl_nats=0.5,
    moved=0.25,
    head_of_one_share=0.125,
    mean_head_size=9.5,
    num_completions=8,
    repetition=0.1,
    loop_share=0.25,
    clone_share=0.0,
)
METHODS = ("contrastive", "head_only", "sample")


def a_preview(text: str = "was a fox and a goose who") -> Preview:
    """Two prefixes under three methods."""
    found = tuple(
        Continuation(method=name, text=f"{text} {name}", num_tokens=9, ended=k == 0, repetition=0.5)
        for k, name in enumerate(METHODS)
    )
    prefixes = tuple(
        Previewed(document="d-0", prefix=start, continuations=found)
        for start in ("Once upon a time there", "In a village there")
    )
    return Preview(
        name="x", engine="fast path", prefixes=prefixes, health=HEALTH, findings=("dead",)
    )


def test_a_wide_terminal_gets_columns() -> None:
    """All three methods stand in one line, and no line is wider than the terminal."""
    lines = preview_text(a_preview(), 120).splitlines()
    table = [line for line in lines if line.startswith(("┃", "│", "┏", "└", "┡"))]

    assert any(all(name in line for name in METHODS) for line in table)
    assert table and max(map(len, table)) <= 120


def test_a_narrow_or_absent_terminal_gets_one_text_below_the_other() -> None:
    """In order, within the width."""
    for width in (60, None):
        text = preview_text(a_preview(), width)
        body = text.split("contrast:")[0]
        heads = [line for line in body.splitlines() if line.endswith("repeated):")]

        assert heads == [f"{name} (50% repeated):" for name in METHODS] * 2
        assert max(map(len, body.splitlines())) <= (width or 100)
        assert "[Once upon a time there]" in body and "┃" not in text


def test_health_and_findings_are_said() -> None:
    """The gap, the divergence, what is wrong; and where nothing was measured, that."""
    text = preview_text(a_preview(), None)
    none = preview_text(dataclasses.replace(a_preview(), health=None, findings=()), None)

    assert "gap +0.250; KL 0.500; 25% of draws moved" in text
    assert "warning: dead" in text and "engine: fast path" in text
    assert "not measured, there is no eval text" in none and "warning" not in none


def test_a_model_cannot_steer_the_terminal() -> None:
    """Escapes are blanked, and rich's own markup is text."""
    for width in (120, None):
        text = preview_text(a_preview("\x1b[31mred\x07\r [bold]x[/bold] [/]"), width)

        assert "\x1b" not in text and "\x07" not in text and "\r" not in text
        assert "[bold]x[/bold] [/]" in text
