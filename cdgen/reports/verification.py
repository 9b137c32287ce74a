"""What `cdgen verify` and `cdgen explain` print."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cdgen.shards.verify import Report

if TYPE_CHECKING:
    from cdgen.builders.trace import Replayed, Step

SHOWN_PROBLEMS = 20


def verify_text(folder: str, report: Report) -> str:
    """The verdict, then the problems: the first twenty, and how many more."""
    counts = report.counts
    seen = f"{counts['num_shards']} shards, {counts['num_samples']:,} samples, {counts['num_tokens']:,} tokens"
    if report.ok:
        said = f"{folder}: intact: {seen}; hashes, counts, keys, provenance, splits and the synthetic share agree"
        return said + (f"; {report.unchecked}" if report.unchecked else "")
    count = len(report.problems)
    lines = [f"{folder}: {count:,} problem{'s' if count > 1 else ''} in {seen}"]
    lines += [f"  {problem}" for problem in report.problems[:SHOWN_PROBLEMS]]
    if count > SHOWN_PROBLEMS:
        lines.append(f"  and {count - SHOWN_PROBLEMS:,} more (all of them with --json)")
    return "\n".join(lines)


def replay_text(replayed: "Replayed") -> str:
    """How far the tokens that were drawn again agree."""
    agreed = f"{replayed.num_equal_tokens:,} of {replayed.num_tokens:,} tokens agree ({replayed.agreement:.4%})"
    lines = [f"replay: {replayed.num_rows} rows, {replayed.num_samples} samples: {agreed}"]
    lines += [
        f"  {odd.key}: differs from token {odd.token}: {odd.stored} stored, {odd.drawn} drawn"
        for odd in replayed.differences[:SHOWN_PROBLEMS]
    ]
    if replayed.differences:
        lines.append(
            "  on another kind of machine this is expected; on the one that built it, it is not"
        )
    return "\n".join(lines)


def explain_text(steps: Sequence["Step"]) -> str:
    """A line per drawn token; `plain` is what sampling from the expert alone draws at the same random number."""
    lines = [f"{'token':<16} {'log p_G':>8} {'log p_B':>8} {'gap':>7} {'head':>5}  plain"]
    for step in steps:
        amateur = "" if step.logp_amateur is None else f"{step.logp_amateur:8.3f}"
        gap = "" if step.logp_amateur is None else f"{step.logp_expert - step.logp_amateur:7.3f}"
        plain = "" if step.plain == step.token else repr(step.plain)
        row = f"{step.token!r:<16} {step.logp_expert:8.3f} {amateur:>8} {gap:>7} {step.head_size:>5}  {plain}"
        lines.append(row.rstrip())
    return "\n".join(lines)
