"""What the workers of a build do, as a table for a terminal and as lines for everything else."""

from collections.abc import Iterator, Mapping, Sequence

from rich.table import Table
from rich.text import Text

from cdgen.builders.tally import Stand, WorkerStand

MOST_ROWS = 20
"""Of a table; a line says how many workers are not shown."""
_STYLES = {"joined": "green", "draining": "yellow", "left": "dim", "dead": "red", "refused": "red"}
_WORDS = {"joined": "working"}


def duration(seconds: float) -> str:
    """95 s, 12 min, 3.5 h, 4.2 days: as exact as an estimate deserves."""
    for size, unit, limit in ((1, "s", 120), (60, "min", 7200), (3600, "h", 172800)):
        if seconds < limit:
            return f"{seconds / size:.{1 if unit == 'h' else 0}f} {unit}"
    return f"{seconds / 86400:.1f} days"


def short(number: float) -> str:
    """950, 12.3k, 4.56M, 7.89G: three digits."""
    for unit in ("", "k", "M", "G"):
        if number < 999.5:
            return f"{number:.0f}{unit}" if number >= 99.5 or not unit else f"{number:.3g}{unit}"
        number /= 1000
    return f"{number:.3g}T"


def headline(stand: Stand) -> str:
    """12 of 40 shards, 13.4k tokens/s on 4 workers, 3 min left, 2 retries, 1 dead."""
    parts = [f"{stand.shards_done:,} of {stand.shards_total:,} shards"]
    if stand.workers:
        count = stand.num_working
        workers = f"{count} worker{'' if count == 1 else 's'}"
        parts.append(f"{short(stand.tokens_per_s)} tokens/s on {workers}")
    if stand.seconds_left is not None:
        parts.append(f"{duration(stand.seconds_left)} left")
    parts.extend(troubles(stand))
    return ", ".join(parts)


def troubles(stand: Stand) -> Iterator[str]:
    """What went wrong so far, in a few words each."""
    retries = sum(stand.retries.values())
    if retries:
        yield f"{retries} {'retry' if retries == 1 else 'retries'}"
    if stand.num_dead:
        yield f"{stand.num_dead} dead"
    if stand.sent:
        yield f"models sent to {len(stand.sent)} node{'' if len(stand.sent) == 1 else 's'}"
    if stand.quarantined:
        yield f"{len(stand.quarantined)} set aside"


def worker_table(stand: Stand, *, width: int, most_rows: int = MOST_ROWS) -> Table:
    """One row a worker, the working ones first. Narrow terminals are not shown the node, then not what it does."""
    wide, middling = width >= 100, width >= 70
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_edge=False)
    table.add_column("worker", no_wrap=True, overflow="ellipsis", max_width=14)
    if wide:
        table.add_column("node", no_wrap=True, overflow="ellipsis", max_width=18)
    table.add_column("state", no_wrap=True)
    for title in ("shards", "tokens/s", "retries"):
        table.add_column(title, justify="right", no_wrap=True)
    if middling:
        table.add_column("now", no_wrap=True, overflow="ellipsis", style="dim")
    rest = width - 54 - (20 if wide else 0)
    shown = stand.workers if len(stand.workers) <= most_rows else stand.workers[: most_rows - 1]
    names = short_names(stand.workers)
    for worker in shown:
        row = list(_row(worker, names[worker.name], wide=wide))
        now = worker.why or worker.shard.removesuffix(".tar")
        table.add_row(*row, *([Text(_cut(now, rest))] if middling else []))
    hidden = len(stand.workers) - len(shown)
    if hidden:
        table.add_row(Text(f"and {hidden} more", style="dim"))
    return table


def _row(worker: WorkerStand, name: str, *, wide: bool) -> Iterator[Text | str]:
    yield Text(name)
    if wide:
        yield Text(worker.node)
    yield Text(_WORDS.get(worker.state, worker.state), style=_STYLES.get(worker.state, ""))
    yield f"{worker.num_shards:,}"
    yield short(worker.tokens_per_s) if worker.tokens_per_s else ""
    yield str(worker.num_retries) if worker.num_retries else ""


def short_names(workers: Sequence[WorkerStand]) -> dict[str, str]:
    """By name: w007 for cdgen-tales-1f3a-w007, as long as no two workers end in the same."""
    ends = {worker.name: worker.name.rpartition("-")[2] for worker in workers}
    return ends if len(set(ends.values())) == len(ends) else {name: name for name in ends}


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: max(0, length - 1)] + "…"


def worker_lines(workers: Sequence[WorkerStand], *, most_rows: int = MOST_ROWS) -> Iterator[str]:
    """The table as plain text, for `cdgen status`."""
    shown = workers[:most_rows]
    for worker in shown:
        what = worker.why or (f"on {worker.shard}" if worker.shard else "")
        facts = [
            _WORDS.get(worker.state, worker.state),
            f"{worker.num_shards:,} shards",
            f"{short(worker.tokens_per_s)} tokens/s" if worker.tokens_per_s else "",
            f"{worker.num_retries} retries" if worker.num_retries else "",
            f"node {worker.node}" if worker.node else "",
            what,
        ]
        yield f"  {worker.name}: {', '.join(fact for fact in facts if fact)}"
    if len(workers) > len(shown):
        yield f"  and {len(workers) - len(shown)} more; --json lists them all"


def noted(event: Mapping[str, object]) -> str | None:
    """The line that says an event for people to read, None for one that needs no line or has one already."""
    name, why = event.get("event"), _because(event)
    match name, event.get("state"):
        case "worker", "joined":
            return f"worker {event.get('worker')} joined on {event.get('node')}"
        case "worker", "dead":
            return f"worker {event.get('worker')} died{why}"
        case "worker", "left":
            return f"worker {event.get('worker')} left{why}"
        case "worker", "draining":
            return f"worker {event.get('worker')} is draining{why}"
        case "sent", _:
            return f"node {event.get('node')} is sent a model by the driver{why}"
        case "retry", _:
            return f"{event.get('shard')} is made again, after a {_CAUSES.get(str(event.get('cause')), 'fault')}{why}"
    return None


_CAUSES = {"death": "worker's death", "error": "error", "memory": "lack of memory"}


def _because(event: Mapping[str, object]) -> str:
    why = event.get("why")
    return f": {why}" if why else ""
