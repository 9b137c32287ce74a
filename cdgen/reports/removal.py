"""What `cdgen remove` prints."""

from collections.abc import Iterator

from cdgen.builders.remove import RemoveReport
from cdgen.reports.summary import Rows, table

_SHOWN = 5


def remove_text(report: RemoveReport) -> str:
    """The end of `cdgen remove`."""
    went = ", ".join(f"{count:,} {kind}" for kind, count in report.num_samples.items())
    written, linked = (
        f"{report.num_rewritten:,} written again",
        f"{report.num_linked:,} as they were",
    )
    rows = [
        ("removed", f"{_documents(len(report.documents))}: {went} samples"),
        ("shards", f"{written}, {linked}, {report.num_emptied:,} gone"),
        *_mix_rows(report),
        ("manifest", report.manifest_digest[:16]),
    ]
    text = f"{table(rows)}\ntaken from {report.source}; next: cdgen verify {report.folder}"
    return f"{text}{_copies(report)}"


def _documents(count: int) -> str:
    return f"{count:,} document" + "s" * (count != 1)


def _mix_rows(report: RemoveReport) -> Rows:
    mix = report.mix
    if mix is None:
        return
    made = "" if report.materialized else "; mixed anew, not written"
    yield (
        "synthetic share",
        f"{mix.realised:.4%} of {mix.unit}, {mix.nominal:.4%} asked for{made}",
    )
    if report.materialized:
        for part in mix.parts:
            if part.source != "real":
                yield f"  {part.source}", _errors(part.error_low, part.error_high, mix.unit)


def _errors(low: float, high: float, unit: str) -> str:
    return (
        f"now {low:+,.1f} to {high:+,.1f} {unit} from its share at document boundaries (measured)"
    )


def _copies(report: RemoveReport) -> str:
    """Documents with the same text that stay."""
    return "".join(_copy_lines(report))


def _copy_lines(report: RemoveReport) -> Iterator[str]:
    if report.copies:
        shown = ", ".join(report.copies[:_SHOWN])
        more = ", …" if len(report.copies) > _SHOWN else ""
        yield f"\nstill there with the very same text: {_documents(len(report.copies))}: {shown}{more}"
