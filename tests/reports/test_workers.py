"""The table of workers and the lines about them."""

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cdgen.builders.tally import Stand, WorkerStand, tally
from cdgen.reports.progress import Bar, Lines
from cdgen.reports.summary import status_text
from cdgen.reports.watching import watch_build
from cdgen.reports.workers import duration, headline, noted, short, short_names, worker_table


def named(number: int) -> str:
    return f"cdgen-tales-1f3a-w{number:03d}"


def happenings() -> list[dict[str, Any]]:
    """A build of 40 shards on three workers, one of which dies."""
    events: list[dict[str, Any]] = [
        {"time": 0, "event": "build", "recipe": "tales"},
        {"time": 0, "event": "plan", "shards": 40, "done": 0},
        {"time": 0, "event": "start", "stage": "decode", "total": 100_000, "unit": "token"},
    ]
    for number in range(3):
        name = named(number)
        events += [
            {
                "time": 1,
                "event": "worker",
                "worker": name,
                "node": f"10.0.0.{number}",
                "state": "joined",
            },
            {
                "time": 1,
                "event": "job",
                "worker": name,
                "shard": f"synthetic-train-0123abcd-0000{number}.tar",
            },
        ]
    for t in (2, 4):
        events.append(
            {"time": t, "event": "drawn", "workers": {named(n): 1000 * t for n in range(3)}}
        )
    shard = "synthetic-train-0123abcd-00000.tar"
    events += [
        {"time": 4, "event": "progress", "stage": "decode", "done": 12_000, "total": 100_000, "unit": "token"},
        {"time": 4, "event": "shard", "name": shard, "tokens": 4000, "worker": named(0)},
        {"time": 5, "event": "worker", "worker": named(1), "state": "dead", "why": "its process was killed"},
        {"time": 5, "event": "retry", "worker": named(1), "shard": "synthetic-train-0123abcd-00001.tar",
         "cause": "death", "attempt": 1, "why": "its process was killed"},
        {"time": 6, "event": "quarantined", "shard": "synthetic-train-0123abcd-00002.tar", "attempts": 2,
         "why": "ValueError: no"},
        {"time": 6, "event": "sent", "worker": named(2), "node": "10.0.0.2", "why": "s3://b/expert: access is refused"},
    ]  # fmt: skip
    return events


def drawn(stand: Stand, width: int, **options: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(worker_table(stand, width=width, **options))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().rstrip("\n").split("\n")


def test_headline_says_it_all() -> None:
    assert headline(tally(happenings())) == (
        "1 of 40 shards, 2k tokens/s on 2 workers, 44 s left, 1 retry, 1 dead, models sent to 1 node, "
        "1 set aside"
    )


def test_a_model_that_is_sent_is_a_line_that_says_why() -> None:
    (line,) = [noted(event) for event in happenings() if event["event"] == "sent"]

    assert line == "node 10.0.0.2 is sent a model by the driver: s3://b/expert: access is refused"


def test_a_wide_table_has_everything_and_the_dead_come_last() -> None:
    lines = drawn(tally(happenings()), 110)

    assert [line.split()[:3] for line in lines[1:]] == [
        ["w000", "10.0.0.0", "working"], ["w002", "10.0.0.2", "working"], ["w001", "10.0.0.1", "dead"],
    ]  # fmt: skip
    assert "its process was killed" in lines[3] and "synthetic-train-0123abcd-00002" in lines[2]


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
def test_a_table_is_never_wider_than_its_terminal(width: int) -> None:
    lines = drawn(tally(happenings()), width)

    assert len(lines) == 4 and max(map(len, lines)) <= width
    assert all("working" in line or "dead" in line for line in lines[1:])


def test_many_workers_are_cut_at_the_height_of_the_terminal() -> None:
    stand = Stand(workers=tuple(WorkerStand(name=named(n)) for n in range(1000)))

    lines = drawn(stand, 80, most_rows=10)

    assert len(lines) == 11 and lines[-1].strip() == "and 991 more"


def test_names_are_short_only_where_they_stay_apart() -> None:
    same = [WorkerStand(name="a-w000"), WorkerStand(name="b-w000")]

    assert short_names(same) == {"a-w000": "a-w000", "b-w000": "b-w000"}


def test_markup_in_what_went_wrong_is_only_text() -> None:
    stand = Stand(workers=(WorkerStand(name="[red]", state="dead", why="[bold]boom[/]"),))

    assert "[red]" in drawn(stand, 80)[1] and "[bold]boom[/]" in drawn(stand, 80)[1]


def test_plain_lines_say_what_happened_and_where_it_stands() -> None:
    stream, now = io.StringIO(), [0.0]
    lines = Lines(stream, clock=lambda: now[0])
    with lines.stage("decode", total=100_000, unit="token") as advance:
        for event in happenings():
            lines.heard(event)
        now[0] = 11.0
        advance(12_000)

    said = stream.getvalue().splitlines()
    assert f"worker {named(1)} joined on 10.0.0.1" in said
    assert f"worker {named(1)} died: its process was killed" in said
    assert (
        "synthetic-train-0123abcd-00001.tar is made again, after a worker's death: its process was killed"
        in said
    )
    assert "decode: " + headline(tally(happenings())) in said


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_table_is_under_the_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "110")
    monkeypatch.setenv("LINES", "30")
    monkeypatch.setenv("TERM", "xterm")
    stream = _Terminal()
    bar = Bar(stream)
    for event in happenings()[:3]:
        bar.heard(event)
    with bar.stage("decode", total=100_000, unit="token") as advance:
        for event in happenings()[3:]:
            bar.heard(event)
        advance(12_000)

    seen = stream.getvalue()
    assert "1 of 40 shards" in seen and "w002" in seen and f"worker {named(1)} died" in seen


def test_status_names_workers_and_what_was_given_up(tmp_path: Path) -> None:
    from cdgen.builders.events import Recorded
    from cdgen.builders.status import Watch, status
    from cdgen.progress import Quiet

    log = Recorded(Quiet(), tmp_path)
    for event in happenings():
        facts = {key: value for key, value in event.items() if key not in ("time", "event")}
        log.event(event["event"], **facts)

    text = status_text(status(tmp_path))
    stream = io.StringIO()
    watch_build(Watch(tmp_path), stream, sleep=lambda _: None)

    assert "retries           1 death" in text
    assert f"  {named(1)}: dead, 0 shards, 1 retries, node 10.0.0.1, its process was killed" in text
    assert "set aside: synthetic-train-0123abcd-00002.tar after 2 attempts: ValueError: no" in text
    assert text.endswith("interrupted: the same cdgen build goes on from here")
    assert f"{named(2)}: working" in stream.getvalue()


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (7.4, "7"), (999, "999"), (999.6, "1k"), (12_345, "12.3k"), (4.56e6, "4.56M"), (2e9, "2G")],
)  # fmt: skip
def test_numbers_are_short(number: float, text: str) -> None:
    assert short(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(3, "3 s"), (300, "5 min"), (9000, "2.5 h"), (360_000, "4.2 days")]
)
def test_durations_are_as_exact_as_an_estimate_deserves(seconds: float, text: str) -> None:
    assert duration(seconds) == text
