"""From events to a state: against a slow reference, on logs that are cut, repeated, hostile, or of a jumping clock."""

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdgen.builders import events as module
from cdgen.builders.drawn import drawn_every_s
from cdgen.builders.events import EVENTS, EventLog, Recorded, read_events
from cdgen.builders.status import Watch, status
from cdgen.builders.tally import STATES, WINDOW_S, Speed, Stand, Tally, can_begin, tally
from cdgen.errors import UsageError
from cdgen.progress import Quiet
from cdgen.storage import hold

Events = list[dict[str, Any]]

WORKERS = st.sampled_from(["w-0", "w-1", "w-2"])
SHARDS = st.sampled_from([f"synthetic-train-0123abcd-{number:05d}.tar" for number in range(5)])
HAPPENING = st.one_of(
    st.fixed_dictionaries(
        {"event": st.just("worker"), "worker": WORKERS, "node": st.just("n"), "state": st.sampled_from(STATES)}
    ),
    st.fixed_dictionaries(
        {"event": st.just("sent"), "worker": WORKERS, "node": st.sampled_from("mn"), "why": st.text()}
    ),
    st.fixed_dictionaries({"event": st.just("job"), "worker": WORKERS, "shard": SHARDS}),
    st.fixed_dictionaries(
        {"event": st.just("shard"), "worker": WORKERS, "name": SHARDS, "tokens": st.integers(0, 9)}
    ),
    st.fixed_dictionaries(
        {"event": st.just("drawn"), "workers": st.dictionaries(WORKERS, st.integers(0, 10**9))}
    ),
    st.fixed_dictionaries(
        {"event": st.just("retry"), "worker": WORKERS, "shard": SHARDS, "attempt": st.just(1),
         "cause": st.sampled_from(["death", "error", "memory"]), "why": st.just("it broke")}
    ),
    st.fixed_dictionaries(
        {"event": st.just("quarantined"), "shard": SHARDS, "attempts": st.integers(1, 9), "why": st.text()}
    ),
    st.fixed_dictionaries(
        {"event": st.just("progress"), "stage": st.just("decode"), "done": st.integers(0, 99),
         "total": st.just(100), "unit": st.just("token")}
    ),
)  # fmt: skip
BUILD = {"time": 1.0, "event": "build", "recipe": "tales"}


@st.composite
def logs(draw: st.DrawFn, clock: st.SearchStrategy[float] | None = None) -> Events:
    """One build's events, at times that rise unless another clock is given."""
    happened = draw(st.lists(HAPPENING, max_size=30))
    times = (
        sorted(draw(st.lists(st.floats(1, 1e4), min_size=len(happened), max_size=len(happened))))
        if clock is None
        else [draw(clock) for _ in happened]
    )
    plan = {"time": 1.0, "event": "plan", "shards": 40, "done": 3}
    return [BUILD, plan, *({"time": t, **e} for t, e in zip(times, happened, strict=True))]


@given(logs())
def test_counts_are_those_of_a_slow_reference(events: Events) -> None:
    found = tally(events)

    shards = [event for event in events if event["event"] == "shard"]
    by_worker = Counter(event["worker"] for event in shards)
    assert (found.shards_done, found.shards_total) == (3 + len(shards), 40)
    assert found.retries == Counter(e["cause"] for e in events if e["event"] == "retry")
    sent = [event for event in events if event["event"] == "sent"]
    assert found.sent == {event["node"]: event["why"] for event in sent}
    assert {one.shard for one in found.quarantined} == {
        event["shard"] for event in events if event["event"] == "quarantined"
    }
    for worker in found.workers:
        states = [
            e["state"] for e in events if e["event"] == "worker" and e["worker"] == worker.name
        ]
        assert worker.state == (states[-1] if states else "joined")
        assert worker.num_shards == by_worker[worker.name]
    names = [worker.name for worker in found.workers]
    assert len(names) == len(set(names)) and set(by_worker) <= set(names)


@given(logs(), logs())
def test_only_the_last_build_of_a_log_counts(first: Events, second: Events) -> None:
    assert tally([*first, *second]) == tally(second)


@given(logs(clock=st.floats(-1e9, 1e9)))
def test_a_jumping_clock_changes_speeds_and_nothing_else(events: Events) -> None:
    found = tally(events)
    calm = tally([{**event, "time": 5.0} for event in events])

    def counts(stand: Stand) -> object:
        return (
            stand.shards_done, stand.retries, stand.quarantined, stand.done,
            [(w.name, w.state, w.shard, w.num_shards, w.num_tokens) for w in stand.workers],
        )  # fmt: skip

    assert counts(found) == counts(calm)
    for speed in (found.tokens_per_s, *(worker.tokens_per_s for worker in found.workers)):
        assert math.isfinite(speed) and speed >= 0
    assert found.seconds_left is None or found.seconds_left >= 0


ODD = st.sampled_from(
    [
        None,
        True,
        -1,
        0,
        7,
        10**30,
        0.5,
        math.nan,
        -math.inf,
        "",
        "w-0",
        "dead",
        [],
        [1],
        {},
        {"w-0": 5},
        {"w-0": "x"},
    ]
)
NAMES = ["build", "worker", "job", "drawn", "shard", "retry", "quarantined", "failed", "plan", "sent",
         "start", "progress", "end", "built", "stand", "nonsense"]  # fmt: skip
FIELDS = ["time", "worker", "workers", "state", "shard", "name", "tokens", "done", "total", "shards",
          "stage", "cause", "attempts", "why"]  # fmt: skip


@given(
    st.lists(
        st.fixed_dictionaries(
            {"event": st.sampled_from(NAMES) | ODD}, optional=dict.fromkeys(FIELDS, ODD)
        ),
        max_size=20,
    )
)
def test_events_that_make_no_sense_do_no_harm(events: Events) -> None:
    found = tally([BUILD, *events])

    assert found.begun and found.shards_done >= 0 and math.isfinite(found.tokens_per_s)
    json.dumps(found.recipe)


@given(logs(), st.data())
def test_a_log_cut_anywhere_gives_the_events_before_the_cut(
    tmp_path_factory: pytest.TempPathFactory, events: Events, data: st.DataObject
) -> None:
    """And a log that grows while it is read gives every event once, however the writes fall."""
    out = tmp_path_factory.mktemp("out")
    whole = "".join(json.dumps(event) + "\n" for event in events).encode()
    cut = data.draw(st.integers(0, len(whole)))
    (out / EVENTS).parent.mkdir()
    log = EventLog(out)

    (out / EVENTS).write_bytes(whole[:cut])
    before = list(log.new())
    (out / EVENTS).write_bytes(whole)
    after = list(log.new())

    assert before == events[: len(before)] and whole[:cut].count(b"\n") == len(before)
    assert before + after == events


@given(logs(), st.sets(st.sampled_from(["build", "shard", "job", "quarantined"])))
def test_events_by_name_are_those_of_all(
    tmp_path_factory: pytest.TempPathFactory, events: Events, names: set[str]
) -> None:
    """Also where another event's text looks like one."""
    out = tmp_path_factory.mktemp("out")
    (out / EVENTS).parent.mkdir()
    odd = {
        "time": 2.0,
        "event": "failed",
        "why": 'no "event": "shard" here',
        "more": {"event": "job"},
    }
    every = [*events, odd]
    (out / EVENTS).write_text("".join(json.dumps(event) + "\n" for event in every))
    log = EventLog(out)

    found = list(log.new(*names))

    assert found == [one for one in every if not names or one["event"] in names]
    assert list(log.new(*names)) == []


@given(logs(), logs(), st.data())
def test_a_stand_stands_for_all_before_it(
    first: Events, second: Events, data: st.DataObject
) -> None:
    """Wherever it is written, and written as JSON: counts, and speeds too."""
    cut = data.draw(st.integers(1, len(second)))
    before = Tally()
    for event in [*first, *second[:cut]]:
        before.add(event)
    stand = json.loads(json.dumps({"time": 9.0, "event": "stand", **before.kept()}))

    assert can_begin(stand)
    assert tally([stand, *second[cut:]]) == tally([*first, *second])
    assert tally([*first, *second[:cut], stand, *second[cut:]]) == tally(second)


@pytest.mark.parametrize(
    "state", [None, 7, {"done": 1}, {"time": "1"}, {"stage": {"speed": {"times": [1.0]}}}]
)
def test_a_stand_that_makes_no_sense_is_left_out(state: object) -> None:
    stand = {"time": 2.0, "event": "stand", "state": state}

    assert not can_begin(stand) and tally([BUILD, stand]) == tally([BUILD])


@given(
    st.lists(
        st.sampled_from(["build", "stand", "drawn"])
        | st.text(alphabet='{}":\\\n ab', max_size=30).map(lambda text: f"no event {text}"),
        max_size=12,
    ),
    st.integers(1, 80),
    st.sampled_from(["", '{"event": "bui', '{"event": "build"}']),
)
def test_the_last_event_is_found_from_the_end(
    tmp_path_factory: pytest.TempPathFactory, said: list[str], block: int, cut: str
) -> None:
    """As the slow way finds it, however the file falls into blocks, and if a crash has cut it."""
    out = tmp_path_factory.mktemp("out")
    (out / EVENTS).parent.mkdir()
    every: Events = [{"event": name, "number": number} for number, name in enumerate(said)]
    (out / EVENTS).write_text("".join(f"{json.dumps(event)}\n" for event in every) + cut)
    log = EventLog(out)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BLOCK", block)
        log.skip_to_last(lambda event: event["number"] != 3, "build", "stand")

    good = [e["number"] for e in every if e["event"] in ("build", "stand") and e["number"] != 3]
    assert list(log.new()) == every[max(good, default=0) :]


def test_status_reads_the_end_of_a_long_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A log of many stands says the same from the last of them on as from its beginning."""
    monkeypatch.setattr(module, "_STAND_EVERY", 2000)
    clock = iter(range(10**6))
    log = Recorded(Quiet(), tmp_path, clock=lambda: float(next(clock)))
    log.event("build", recipe="tales")
    log.event("plan", shards=500, done=0)
    log.event("start", stage="decode", total=10**6, unit="token")
    for number in range(400):
        worker = f"w-{number % 3}"
        log.event("job", shard=f"s-{number}", worker=worker)
        log.event("drawn", workers={worker: 10 * number})
        log.event("shard", name=f"s-{number}", tokens=10, worker=worker)
    read = EventLog(tmp_path)
    read.skip_to_last(can_begin, "build", "stand")
    rest = list(read.new())
    every = read_events(tmp_path)
    stands = [event for event in every if event["event"] == "stand"]

    assert status(tmp_path).shards_done == 400
    assert tally(rest) == tally(every) == tally(e for e in every if e["event"] != "stand")
    assert rest[0] == stands[-1] and len(rest) < 150 < len(every)
    size = (tmp_path / EVENTS).stat().st_size
    assert sum(len(json.dumps(stand)) for stand in stands) < size / module._STAND_SHARE


@given(st.integers(0, 10**6))
def test_the_rate_of_the_log_does_not_grow_with_the_workers(num_workers: int) -> None:
    wait = drawn_every_s(num_workers)

    assert wait >= 2 and num_workers <= 30.001 * wait
    assert num_workers > 60 or wait == 2


def test_a_build_after_a_crash_in_the_middle_of_a_line_is_seen(tmp_path: Path) -> None:
    """Its first event must not be swallowed by the line that was cut."""
    (tmp_path / EVENTS).parent.mkdir()
    (tmp_path / EVENTS).write_text(
        '{"time": 1, "event": "build", "recipe": "old"}\n{"time": 2, "ev'
    )

    Recorded(Quiet(), tmp_path, clock=lambda: 3.0).event("build", recipe="new")

    assert status(tmp_path).recipe == "new" and len(read_events(tmp_path)) == 2


def test_speed_is_that_of_the_last_minute() -> None:
    speed = Speed()
    for second in range(200):
        speed.add(second, 100 * second if second < 100 else 10_000 + 300 * (second - 100))

    assert speed.per_s() == pytest.approx(300)
    assert len(speed.times) == len(speed.totals) <= WINDOW_S + 2


def test_the_time_left_is_what_is_left_at_the_speed_of_those_who_work() -> None:
    """Two workers at 100 tokens/s each, one of which dies: then it is half of it."""
    events = [
        BUILD,
        {"time": 1, "event": "start", "stage": "decode", "total": 2000, "unit": "token"},
    ]
    events += [
        {"time": float(t), "event": "drawn", "workers": {"w-0": 100 * t, "w-1": 100 * t}}
        for t in range(1, 4)
    ]
    events.append({"time": 3, "event": "progress", "stage": "decode", "done": 600, "unit": "token"})
    both = tally(events)
    events.append(
        {"time": 3.5, "event": "worker", "worker": "w-1", "state": "dead", "why": "killed"}
    )
    one = tally(events)

    assert (both.tokens_per_s, both.seconds_left) == (200, 7)
    assert (one.tokens_per_s, one.seconds_left, one.num_dead) == (100, 14, 1)
    assert [(w.name, w.state, w.why) for w in one.workers] == [
        ("w-0", "joined", ""), ("w-1", "dead", "killed"),
    ]  # fmt: skip


def test_status_is_told_apart(tmp_path: Path) -> None:
    """running, interrupted, failed, complete; and a folder without a build is refused."""
    with pytest.raises(UsageError, match="no build was begun here"):
        status(tmp_path)
    log = Recorded(Quiet(), tmp_path, clock=lambda: 7.0)
    seen = Watch(tmp_path)
    log.event("build", recipe="tales")

    with hold(tmp_path, "build tales"):
        assert seen.look().state == "running"
    assert seen.look().state == "interrupted"
    log.event("failed", why="2 shards were given up")
    assert (seen.look().state, seen.look().why) == ("failed", "2 shards were given up")
    log.event("built", manifest="00")
    assert seen.look().state == "complete" and seen.look() == status(tmp_path)
