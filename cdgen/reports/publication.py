"""What `cdgen publish` prints."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cdgen.hub.publish import Published


def publication_text(report: "Published") -> str:
    """Where the corpus is, what was sent, and how it is read from there."""
    files = f"{report.num_sent_files:,} of {report.num_files:,} files"
    sent = f"{files} ({report.num_sent_bytes:,} of {report.num_bytes:,} bytes)"
    if report.dry_run:
        lines = [f"{report.where}: would get {sent}; nothing was sent"]
    elif report.num_sent_files or report.deleted:
        lines = [f"{report.where}: complete; sent {sent}"]
    else:
        lines = [f"{report.where}: complete already; nothing was sent"]
    if report.deleted:
        gone = "would vanish" if report.dry_run else "are no longer visible"
        lines.append(f"{len(report.deleted):,} files of an earlier version {gone}")
    if report.tag and not report.dry_run:
        lines.append(f"commit {report.commit[:12]}, tagged {report.tag}")
        pinned = f"{report.where.partition('@')[0]}@{report.tag}"
        lines.append(f"read it: cdgen stream {pinned}   check it: cdgen verify {pinned}")
    return "\n".join(lines)
