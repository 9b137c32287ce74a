"""What `cdgen stats` prints: the tables of the report, which its page shows too."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from cdgen.reports.built import Built
from cdgen.reports.statistics import BLEU_TOKENS, Shown, SourceNumbers, Spread, Statistics
from cdgen.reports.terminal import harmless
from cdgen.shards.manifest import ContaminationInfo
from cdgen.shards.verdicts import REASONS

Row = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table for people; the first column names the row.

    Attributes:
        title: what it is about.
        head: of the columns.
        rows: as many cells each.
        note: how to read it.
    """

    title: str
    head: Row
    rows: tuple[Row, ...]
    note: str = ""


def statistics_text(found: Statistics) -> str:
    """The whole report for a terminal."""
    parts = [f"{found.name} (manifest {found.manifest_digest[:16]})"]
    parts += [table_text(table) for table in tables(found)]
    parts += [_sample_text(shown) for shown in found.samples]
    parts.append("\n".join(f"note: {note}" for note in found.notes()))
    return "\n\n".join(part for part in parts if part)


def tables(found: Statistics) -> Iterator[Table]:
    """Every table, in the order of the report."""
    yield _texts(found)
    if found.mix is not None:
        yield _mix(found)
    yield _lengths(found)
    if any(source.drawing for source in found.sources):
        yield _drawing(found)
    if found.positions:
        yield _positions(found)
    yield _diversity(found)
    yield _repetition(found)
    if found.copied is not None:
        yield _copying(found)
    if found.contamination is not None:
        yield _contamination(found.contamination)
    if found.built is not None:
        yield _built(found.built)


def table_text(table: Table) -> str:
    """A table in columns of equal width; numbers stand to the right."""
    widths = [max(map(len, column)) for column in zip(table.head, *table.rows, strict=True)]
    lines = [table.title]
    for row in (table.head, *table.rows):
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  " + "  ".join(cells).rstrip())
    return "\n".join(lines + ([f"  {table.note}"] if table.note else []))


def _texts(found: Statistics) -> Table:
    totals = found.totals
    rows = [
        (name, _n(group["num_samples"]), _n(group["num_tokens"]), _n(group["num_text_bytes"]), _n(group["num_shards"]))
        for name, group in sorted(totals.items())
    ]  # fmt: skip
    origins = "; ".join(
        f"{text.name} ({text.license}): {text.num_documents:,} documents, {text.num_tokens:,} tokens"
        for text in found.texts
    )
    return Table(
        title="Sources",
        head=("kind", "documents", "tokens", "text bytes", "shards"),
        rows=tuple(rows),
        note=f"real train text from {origins}" if origins else "",
    )


def _mix(found: Statistics) -> Table:
    assert found.mix is not None
    rows = [
        (
            part.source, f"{part.nominal:.4%}", f"{part.realised:.4%}", _n(part.num_documents),
            _n(part.num_tokens), str(part.num_passes),
        )
        for part in found.mix.parts
    ]  # fmt: skip
    dropped = [
        f"{found.dropped[reason]:,} by {reason}" for reason in REASONS if found.dropped.get(reason)
    ]
    return Table(
        title=f"Mix, in {found.mix.unit}",
        head=("source", "asked for", "realised", "documents", "tokens", "passes"),
        rows=tuple(rows),
        note=f"synthetic documents dropped: {', '.join(dropped)}" if dropped else "",
    )


_QUANTILES = ("mean", "smallest", "10 %", "median", "90 %", "largest")


def _spread_row(name: str, spread: Spread, form: str) -> Row:
    return (name, *(format(value, form) for value in (spread.mean, *spread.quantiles)))


def _lengths(found: Statistics) -> Table:
    rows = tuple(_spread_row(one.label, one.lengths, ",.0f") for one in found.sources)
    return Table(title="Length, tokens of a document", head=("source", *_QUANTILES), rows=rows)


def _drawing(found: Statistics) -> Table:
    return Table(
        title="Heads and probabilities of drawn tokens",
        head=(
            "source",
            "log p_G",
            "log p_B",
            "contrast",
            "mean head",
            "median",
            "90 %",
            "heads of one",
        ),
        rows=tuple(_drawing_row(one) for one in found.sources if one.drawing),
        note="natural logarithms, mean over drawn tokens; p_G is the expert, p_B the amateur; heads per document",
    )


def _drawing_row(one: SourceNumbers) -> Row:
    drawing = one.drawing
    assert drawing is not None
    amateur = drawing.logp_amateur
    contrast = "-" if amateur is None else f"{drawing.logp_expert - amateur:+.3f}"
    heads = drawing.heads
    return (
        one.label, f"{drawing.logp_expert:.3f}", "-" if amateur is None else f"{amateur:.3f}", contrast,
        f"{heads.mean:,.1f}", f"{heads.quantiles[2]:,.1f}", f"{heads.quantiles[3]:,.1f}",
        f"{drawing.head_of_one_share:.1%}",
    )  # fmt: skip


def _positions(found: Statistics) -> Table:
    """Positions in steps that double: the page draws them all."""
    shown = [p for p in found.positions if (p.position + 1) & p.position == 0]
    rows = tuple(
        (
            str(one.position + 1), str(one.num_rows), f"{one.logp_expert:.3f}",
            "-" if one.logp_amateur is None else f"{one.logp_expert - one.logp_amateur:+.3f}", f"{one.head_size:,.1f}",
        )
        for one in shown
    )  # fmt: skip
    return Table(
        title="Contrast by position",
        head=("token after the prefix", "rows", "log p_G", "contrast", "head"),
        rows=rows,
        note="of rows that were decoded again, with the same tokens",
    )


def _diversity(found: Statistics) -> Table:
    rows = tuple(
        (
            one.label, *(f"{share:.2%}" for share in one.distinct),
            "-" if one.self_bleu is None else f"{one.self_bleu:.3f}",
        )
        for one in found.sources
    )  # fmt: skip
    pieces = f"; self-BLEU of {found.bleu_documents:,} pieces of {BLEU_TOKENS} tokens each"
    return Table(
        title="Diversity",
        head=("source", "distinct-1", "distinct-2", "distinct-3", "distinct-4", "self-BLEU"),
        rows=rows,
        note=f"n-grams in {found.diversity_tokens:,} tokens of each source, prefixes left out"
        + (pieces if found.bleu_documents > 1 else ""),
    )


def _repetition(found: Statistics) -> Table:
    rows = tuple(_spread_row(one.label, one.repeated, ".1%") for one in found.sources)
    return Table(
        title="Repetition, share of a document's tokens in 4-grams that it had before",
        head=("source", *_QUANTILES),
        rows=rows,
    )


def _copying(found: Statistics) -> Table:
    drawn = sum(one.tokens_read for one in found.sources if one.drawing)
    rows = tuple(
        (
            f"{one.length} tokens", _n(one.num_documents), _n(one.num_tokens),
            f"{one.num_copied_windows / one.num_windows:.3%}" if one.num_windows else "-",
        )
        for one in found.copied or ()
    )  # fmt: skip
    return Table(
        title="Copying, drawn text that stands word for word in the real train text",
        head=("window", "documents with one", "tokens in one", "share of windows"),
        rows=rows,
        note=f"of {drawn:,} synthetic tokens, prefixes included, which are not searched",
    )


def _contamination(info: ContaminationInfo) -> Table:
    rows = tuple(
        (one.name, _n(one.num_items), _n(one.num_real), _n(one.num_synthetic)) for one in info.sets
    )
    return Table(
        title="Contamination, train documents that hold an evaluation item",
        head=("evaluation set", "items", "real documents", "synthetic documents"),
        rows=rows,
        note=f"{info.ngram} words in a row, or a shorter item whole; action: {info.action}",
    )


def _built(built: Built) -> Table:
    rate = f"{built.tokens_per_s:,.0f} tokens/s" if built.tokens_per_s else "not timed"
    rows = tuple((name, f"{seconds:,.1f}") for name, seconds in built.stages.items())
    times = "once" if built.num_begun == 1 else f"{built.num_begun} times"
    return Table(
        title="Build",
        head=("stage", "seconds"),
        rows=rows,
        note=f"begun {times}; synthetic shards decoded: {len(built.decoded):,}; {rate}",
    )


def provenance(shown: Shown) -> Sequence[tuple[str, str]]:
    """(name, value) of what a sample says of itself, as far as it says anything."""
    meta = shown.meta
    facts: list[tuple[str, Any]] = [
        ("key", shown.key), ("from", f"{meta.origin} ({meta.license})"),
        ("document", f"{meta.document}, bytes {meta.start:,} to {meta.end:,}"), ("tokens", f"{meta.num_tokens:,}"),
    ]  # fmt: skip
    if meta.source == "synthetic":
        logp = f"log p_G {meta.mean_logp_expert:.3f}, log p_B {meta.mean_logp_amateur:.3f}"
        facts += [
            ("completion", f"{meta.completion}, part {meta.part}, {meta.prefix_tokens} tokens of prefix"),
            ("models", f"expert {meta.expert or '-'}, amateur {meta.amateur or '-'}, decode {meta.decode}"),
            ("random key", meta.rng_key),
            ("means", f"{logp}, head {meta.mean_head_size:.1f}"),
        ]  # fmt: skip
    return facts


def _sample_text(shown: Shown) -> str:
    facts = "\n".join(f"  {name:<10} {value}" for name, value in provenance(shown))
    prefix = f"[{harmless(shown.prefix)}]" if shown.prefix else ""
    return f"{shown.label}: {prefix}{harmless(shown.text)}{' …' if shown.is_cut else ''}\n{facts}"


def _n(count: int) -> str:
    return f"{count:,}"
