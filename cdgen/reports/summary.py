"""What the verbs print for people. Each function returns text; printing is the command line's."""

import textwrap
import time
from collections.abc import Iterable

from cdgen.builders.estimate import human
from cdgen.builders.needs import Needs
from cdgen.builders.plan import Plan
from cdgen.builders.remix import MixReport
from cdgen.builders.report import Quality, Report
from cdgen.builders.status import Status
from cdgen.reports.fleet import fleet_rows
from cdgen.reports.health import health_text
from cdgen.reports.workers import duration, worker_lines
from cdgen.shards.manifest import MixPart
from cdgen.shards.verdicts import REASONS
from cdgen.storage.remote import is_remote

Rows = Iterable[tuple[str, str]]


def build_text(report: Report) -> str:
    """The end of `cdgen build`."""
    rows = [
        ("expert", _quality(report.expert)),
        ("amateur", _amateur(report)),
        ("real", f"{report.num_real_documents:,} documents, {report.num_real_tokens:,} tokens"),
        (
            "synthetic",
            f"{report.num_synthetic_documents:,} documents, {report.num_synthetic_tokens:,} tokens",
        ),
        ("prefixes", f"{report.num_prefixes:,}" + _too_short(report.num_prefixes_too_short)),
        *preflight_rows(report),
        *mix_rows(report),
        ("shards", f"{report.num_shards} in {report.folder}"),
        (
            "decoding",
            f"{report.decode_tokens_per_s:,.0f} tokens/s"
            if report.decode_tokens_per_s
            else "nothing to decode",
        ),
        ("manifest", report.manifest_digest[:16]),
    ]
    return f"{_sample(report)}{table(rows)}\n{_closing(report)}"


def preflight_rows(report: Report) -> Rows:
    """What was seen before decoding, and what is wrong with it."""
    if report.preflight is None:
        return
    yield "preflight", health_text(report.preflight)
    for line in report.preflight_findings:
        yield "  warning", line


def mix_text(report: MixReport) -> str:
    """The end of `cdgen mix`."""
    rows = [
        *mix_rows(report),
        ("shards", f"{report.num_shards} in {report.folder}"),
        ("manifest", report.manifest_digest[:16]),
    ]
    return f"{table(rows)}\nmixed from {report.source}; next: cdgen verify {report.folder}"


def mix_rows(mix: Report | MixReport) -> Rows:
    """What was mixed: sizes, shares, their bound at every document boundary, repeats, and what filters dropped."""
    written = "" if mix.materialized else "; not written (mix.materialize: false)"
    yield (
        "mixed",
        f"{mix.num_mixed_documents:,} documents, {mix.num_mixed_tokens:,} tokens{written}",
    )
    dropped = {reason: mix.dropped[reason] for reason in REASONS if reason in mix.dropped}
    if dropped:
        counts = ", ".join(f"{count:,} {reason}" for reason, count in dropped.items())
        yield "dropped", f"{counts}, of the synthetic documents"
    yield (
        "synthetic share",
        f"{mix.realised_share:.4%} of {mix.unit}, {mix.nominal_share:.4%} asked for",
    )
    for part in mix.parts:
        if part.source != "real" and part.nominal:
            yield f"  {part.source}", _part(part, mix.unit)


def _part(part: MixPart, unit: str) -> str:
    passes = f", {part.num_passes} passes" if part.num_passes > 1 else ""
    bound = f"{_signed(part.error_low, unit)} to {_signed(part.error_high, unit)} {unit}"
    return f"{part.realised:.4%}, {part.nominal:.4%} asked for; at every document boundary within {bound}{passes}"


def _signed(bound: float, unit: str) -> str:
    return f"{bound:+,.0f}" if unit == "tokens" else f"{bound:+,.1f}"


def _closing(report: Report) -> str:
    if report.up_to_date:
        return f"up to date: {report.folder} holds this very corpus, nothing was done"
    return f"built in {report.build_s:.0f} s; next: cdgen verify {report.folder}"


def _too_short(count: int) -> str:
    return f", {count:,} chunks too short for one" if count else ""


def _amateur(report: Report) -> str:
    """An older report does not say the kind of an amateur that was measured."""
    kind = report.amateur_kind
    if report.amateur is None:
        return kind
    quality = _quality(report.amateur)
    if kind == "ngram":
        quality = quality.removeprefix("given, ")
    return quality if kind in ("checkpoint", "none") else f"{kind}: {quality}"


def _quality(model: Quality) -> str:
    name = f"step {model.step}" if model.step else "given"
    if model.perplexity is None:
        return f"{name}, not measured: there is no eval text"
    return (
        f"{name}, eval perplexity {model.perplexity:.1f}, {model.bits_per_byte:.3f} bits per byte"
    )


def _sample(report: Report) -> str:
    if not report.sample_key:
        return ""
    text = f"[{report.sample_prefix.strip()}]{report.sample_text}"
    lines = [
        line for paragraph in text.splitlines() for line in textwrap.wrap(paragraph, 100) or [""]
    ]
    return f"one synthetic document ({report.sample_key}; its prefix in brackets):\n\n{_indent(lines)}\n\n"


def _indent(lines: list[str]) -> str:
    return "\n".join(f"  {line}" for line in lines)


def plan_text(plan: Plan) -> str:
    """`cdgen plan`."""
    documents = ", ".join(f"{count:,} {side}" for side, count in plan.documents.items())
    enough = (
        f"short by about {plan.num_missing_prefixes:,} prefixes: raise text.splits.prefix, generate.completions or "
        "generate.new_tokens, or lower mix.synthetic"
        if plan.num_missing_prefixes
        else "enough"
    )
    training = (
        f"{plan.training_tokens:,} tokens" if plan.training_tokens else "none: the expert is given"
    )
    shards = f"{plan.num_real_shards} real, {plan.num_synthetic_shards} synthetic, about {plan.num_mixed_shards} mixed"
    rows = [
        ("documents", documents),
        (
            "real",
            f"{plan.num_real_samples:,} samples, {plan.num_real_tokens:,} tokens; eval {plan.num_eval_tokens:,} tokens",
        ),
        ("training", training),
        ("prefixes", f"{plan.num_prefixes:,}" + _too_short(plan.num_prefixes_too_short)),
        (
            "decoding",
            f"{plan.num_rows:,} rows, at most {plan.num_synthetic_tokens:,} synthetic tokens",
        ),
        ("needed", f"{plan.num_needed_tokens:,} synthetic tokens: {enough}"),
        ("shards", f"{shards}, in {plan.folder}"),
        *_needs(plan),
        (
            "digests",
            ", ".join(f"{name} {value[:8]}" for name, value in plan.digests.items() if value),
        ),
    ]
    return table(rows)


def _needs(plan: Plan) -> list[tuple[str, str]]:
    """Disk, memory and, where it was measured, time."""
    needs = plan.needs
    disk = f"shards {human(needs.shard_bytes)}"
    if needs.training_disk_bytes:
        disk += f", training {human(needs.training_disk_bytes)}"
    decoding = (
        "unknown" if needs.decoding_memory_bytes is None else human(needs.decoding_memory_bytes)
    )
    rows = [
        ("disk", f"{disk}; {_free(plan)}"),
        (
            "memory",
            f"training {human(needs.training_memory_bytes)}, decoding {decoding}; {_memory_here(needs)}",
        ),
    ]
    if plan.fleet is not None:
        return rows + fleet_rows(plan.fleet, needs)
    if needs.decoding_s is not None:
        training = "" if needs.training_s is None else f"training {duration(needs.training_s)}, "
        gpu = "" if needs.gpu_hours is None else f"; {needs.gpu_hours:.2f} GPU-hours"
        rows.append(("time here", f"{training}decoding {duration(needs.decoding_s)}{gpu}"))
        rows.append(("expert runs by", str(needs.decoding_path)))
    if not needs.fits:
        rows.append(("warning", "this machine is too small for it: see disk and memory"))
    return rows


def _free(plan: Plan) -> str:
    free = human(plan.needs.free_disk_bytes)
    if is_remote(plan.folder):
        return f"{free} free here, where the driver works; how much there is unknown"
    return f"{free} free"


def _memory_here(needs: Needs) -> str:
    """What there is where the models run."""
    if needs.gpu_memory_bytes is None:
        return f"{human(needs.memory_bytes)} here"
    return f"{human(needs.gpu_memory_bytes)} on the GPU"


def status_text(state: Status) -> str:
    """`cdgen status`."""
    of = f" of {state.total:,}" if state.total else ""
    when = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(state.last_event_time))
    who = (
        f" by process {state.holder.pid} on {state.holder.host} since {state.holder.since}"
        if state.holder
        else ""
    )
    rows = [("recipe", state.recipe), ("state", state.state + who)]
    if state.why:
        rows.append(("why", state.why))
    rows.append(("stage", f"{state.stage}: {state.done:,}{of} {state.unit}s"))
    if state.shards_total:
        rows.append(("synthetic shards", f"{state.shards_done:,} of {state.shards_total:,}"))
    if state.tokens_per_s:
        left = "" if state.seconds_left is None else f", {duration(state.seconds_left)} left"
        rows.append(("speed", f"{state.tokens_per_s:,.0f} tokens/s{left}"))
    if state.retries:
        rows.append(("retries", ", ".join(f"{n} {cause}" for cause, n in state.retries.items())))
    rows.append(("last event", when))
    lines = [table(rows)]
    if state.workers:
        lines += ["workers, as last seen" if state.state != "running" else "workers"]
        lines += worker_lines(state.workers)
    lines += [f"sent a model by the driver: node {node}: {why}" for node, why in state.sent.items()]
    for one in state.quarantined:
        lines.append(f"set aside: {one.shard} after {one.attempts} attempts: {one.why}")
    if state.state in ("interrupted", "failed"):
        lines.append(f"{state.state}: the same cdgen build goes on from here")
    return "\n".join(lines)


def table(rows: Rows) -> str:
    """Names and values in two columns."""
    kept = list(rows)
    width = max(len(name) for name, _ in kept)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in kept)
