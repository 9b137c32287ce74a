"""A sweep's jobs as text."""

import shlex

from cdgen.builders.study import Step
from cdgen.builders.sweep import Swept

_MARKS = {
    "done": "done", "todo": "to do", "waiting": "waits", "failed": "FAILED", "spared": "not needed",
}  # fmt: skip


def swept_text(swept: Swept, *, commands: bool) -> str:
    """One line a job, and how many are done; with `commands`, what each of them runs."""
    width = max(len(step.job.name) for step in swept.steps)
    lines = [line for step in swept.steps for line in _lines(step, width, commands=commands)]
    end = f"{swept.count('done')} of {len(swept.steps)} jobs done in {swept.out}"
    if swept.count("failed"):
        end += f"; {swept.count('failed')} failed"
    if not swept.is_complete:
        end += "; the same command goes on from there"
    return "\n".join([*lines, "", end])


def _lines(step: Step, width: int, *, commands: bool) -> list[str]:
    took = f"{step.seconds:,.0f} s" if step.seconds is not None and step.state == "done" else ""
    digest = step.job.digest[:8] or "-"
    line = f"{step.job.name:{width}}  {digest:8}  {_MARKS[step.state]:10}  {took}".rstrip()
    found = [line]
    if step.error:
        found.append(f"  {step.error}")
    if commands and step.state not in ("done", "spared"):
        found.append(f"  cdgen {shlex.join(step.command)}")
    return found
