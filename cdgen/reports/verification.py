"""What `cdgen verify` prints."""

from cdgen.shards.verify import Report

SHOWN_PROBLEMS = 20


def verify_text(folder: str, report: Report) -> str:
    """The verdict, then the problems: the first twenty, and how many more."""
    counts = report.counts
    seen = f"{counts['num_shards']} shards, {counts['num_samples']:,} samples, {counts['num_tokens']:,} tokens"
    if report.ok:
        return f"{folder}: intact: {seen}; hashes, counts, keys, provenance, splits and the synthetic share agree"
    lines = [f"{folder}: {len(report.problems):,} problems in {seen}"]
    lines += [f"  {problem}" for problem in report.problems[:SHOWN_PROBLEMS]]
    if len(report.problems) > SHOWN_PROBLEMS:
        lines.append(
            f"  and {len(report.problems) - SHOWN_PROBLEMS:,} more (all of them with --json)"
        )
    return "\n".join(lines)
