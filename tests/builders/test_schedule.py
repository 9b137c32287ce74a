"""The scheduler under any sequence of faults: every job ends once, and nothing is held against the innocent."""

import random
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdgen.builders.jobs import Job
from cdgen.builders.profile import Retries, Stragglers
from cdgen.builders.schedule import (
    ALONE_AFTER,
    ASIDE_IN_A_ROW,
    STORAGE_IN_A_ROW,
    Action,
    Halve,
    Quarantine,
    Retry,
    Scheduler,
    Stop,
    Submit,
)


def some_jobs(count: int) -> Iterator[Job]:
    return (Job(number=n, shard=f"shard-{n:05d}.tar", first=n, last=n + 1) for n in range(count))


def scheduler(
    count: int = 4,
    *,
    in_flight: int = 1,
    death: int = 10,
    error: int = 1,
    stragglers: Stragglers | None = None,
) -> Scheduler:
    retries = Retries(death=death, error=error)
    return Scheduler(some_jobs(count), in_flight=in_flight, retries=retries, stragglers=stragglers)


def given_out(actions: list[Action]) -> dict[int, str]:
    return {one.job.number: one.worker for one in actions if isinstance(one, Submit)}


def of(kind: type, actions: list[Action]) -> list[Action]:
    return [one for one in actions if isinstance(one, kind)]


def sha(number: int) -> str:
    return f"{number:064x}"


class Simulation:
    """A cluster that does what chance and its poisons say, and checks every action."""

    def __init__(self, seed: int, *, count: int, workers: int, in_flight: int) -> None:
        self.chance = random.Random(seed)
        self.count, self.in_flight = count, in_flight
        self.kills = {n for n in range(count) if self.chance.random() < 0.05}
        self.fails = {n for n in range(count) if self.chance.random() < 0.05} - self.kills
        self.scheduler = scheduler(
            count, in_flight=in_flight, stragglers=Stragglers(times=2.0, at_least_s=5.0)
        )
        self.has: dict[str, list[int]] = {}
        self.delivered: list[int] = []
        self.aside: list[Quarantine] = []
        self.now, self.born = 0.0, 0
        for _ in range(workers):
            self.join()

    def join(self) -> None:
        name = f"w{self.born:03d}"
        self.born += 1
        self.has[name] = []
        self.scheduler.joined(name, f"node-{self.born % 3}")

    def run(self) -> None:
        steps = 0
        while not self.scheduler.finished:
            steps += 1
            assert steps < 50 * self.count + 1000, "it comes to no end"
            self.now += self.chance.random() * 3
            self.check(self.scheduler.decide(self.now))
            self.something_happens()
        self.check(self.scheduler.decide(self.now))

    def check(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Submit(worker, job, copy):
                    assert job.number not in self.has[worker]
                    others = [name for name, mine in self.has.items() if job.number in mine]
                    assert len(others) == copy
                    self.has[worker].append(job.number)
                    assert len(self.has[worker]) <= self.in_flight
                case Quarantine():
                    self.aside.append(action)
                case Stop(why):
                    raise AssertionError(why)

    def something_happens(self) -> None:
        if len(self.has) < 2 or self.chance.random() < 0.05:
            self.join()
        worker = self.chance.choice(sorted(self.has))
        mine = self.has[worker]
        draw = self.chance.random()
        if draw < 0.03 or set(mine[:1]) & self.kills:
            del self.has[worker]
            if draw < 0.01:
                self.scheduler.leaving(worker)
            self.scheduler.lost(worker, "killed", out_of_memory=0.01 < draw < 0.015)
        elif mine and draw < 0.06:
            self.scheduler.ran_out_of_memory(worker, mine.pop(0), "no memory")
        elif mine and mine[0] in self.fails:
            self.scheduler.failed(worker, mine.pop(0), "a bug")
        elif mine and draw < 0.9:
            number = mine.pop(0)
            if self.scheduler.delivered(worker, number, sha(number), self.now):
                self.delivered.append(number)


@given(
    seed=st.integers(0, 2**32),
    count=st.integers(0, 60),
    workers=st.integers(1, 6),
    in_flight=st.integers(1, 4),
)
def test_every_job_ends_exactly_once(seed: int, count: int, workers: int, in_flight: int) -> None:
    """Delivered or set aside; only those that kill, fail, or met memory errors one at a time are set aside."""
    play = Simulation(seed, count=count, workers=workers, in_flight=in_flight)

    play.run()

    aside = [one.job.number for one in play.aside]
    assert sorted(play.delivered + aside) == list(range(count))
    assert aside == [one.job.number for one in play.scheduler.quarantined]
    assert play.kills <= set(aside) and play.fails <= set(aside)
    assert all(
        "no memory" in one.why
        for one in play.aside
        if one.job.number not in play.kills | play.fails
    )
    assert not play.scheduler._again and not play.scheduler._alone
    assert all(
        state.sha256 for state in play.scheduler._open.values()
    )  # second copies, still running


@given(seed=st.integers(0, 2**32))
def test_memory_grows_with_the_workers_and_not_with_the_jobs(seed: int) -> None:
    play = Simulation(seed, count=500, workers=3, in_flight=2)
    play.kills, play.fails = set(), set()
    largest, settle = 0, play.scheduler.decide

    def watched(now: float) -> list[Action]:
        nonlocal largest
        largest = max(largest, len(play.scheduler._open))
        return settle(now)

    play.scheduler.decide = watched  # type: ignore[method-assign]
    play.run()

    assert largest <= 2 * play.in_flight * play.born


def test_jobs_are_spread_before_they_are_stacked() -> None:
    plan = scheduler(4, in_flight=2)
    plan.joined("a", "n")
    plan.joined("b", "n")

    assert given_out(plan.decide(0.0)) == {0: "a", 1: "b", 2: "a", 3: "b"}


def test_a_death_is_not_an_error() -> None:
    """Ten deaths and one error are allowed, as the profile says."""
    plan = scheduler(1, death=3, error=1)
    for number in range(3):
        plan.joined(f"w{number}", "n")
        plan.decide(0.0)
        plan.lost(f"w{number}", "killed")
    plan.joined("w3", "n")
    told = plan.decide(0.0)
    assert [one.attempt for one in told if isinstance(one, Retry)] == [3]

    plan.failed("w3", 0, "a bug")
    assert given_out(plan.decide(0.0)) == {0: "w3"}
    plan.failed("w3", 0, "a bug")

    assert [one.attempts for one in plan.decide(0.0) if isinstance(one, Quarantine)] == [5]
    assert plan.finished


def test_no_retry_where_the_profile_allows_none() -> None:
    plan = scheduler(2, death=0, error=0)
    plan.joined("a", "n")
    plan.decide(0.0)
    plan.failed("a", 0, "a bug")
    plan.decide(0.0)
    plan.lost("a", "killed")

    assert [one.why for one in plan.quarantined] == ["a bug", "killed"]


def test_a_job_that_kills_takes_no_other_along() -> None:
    """Two jobs were there at every death; the guilty one dies alone from the third time on."""
    plan = scheduler(2, in_flight=2, death=3)
    workers = 0
    delivered = []
    while not plan.finished:
        name = f"w{workers}"
        workers += 1
        plan.joined(name, "n")
        mine = sorted(given_out(plan.decide(0.0)))
        if 0 in mine:
            plan.lost(name, "killed")
            assert len(mine) == 2 or workers > ALONE_AFTER
        else:
            assert mine == [1]
            delivered.append(plan.delivered(name, 1, sha(1), 1.0))
            plan.lost(name, "killed")

    assert delivered == [True]
    assert [one.job.number for one in plan.quarantined] == [0]


def test_the_death_of_a_worker_that_leaves_is_held_against_nobody() -> None:
    plan = scheduler(1, death=0)
    plan.joined("spot", "n")
    plan.decide(0.0)
    plan.leaving("spot")
    plan.lost("spot", "its node went")
    plan.joined("next", "m")

    assert given_out(plan.decide(0.0)) == {0: "next"}


def test_what_is_handed_back_goes_elsewhere() -> None:
    plan = scheduler(3, in_flight=2, error=0)
    plan.joined("spot", "n")
    plan.decide(0.0)
    plan.leaving("spot")
    plan.handed_back("spot", 1)
    plan.joined("next", "m")

    told = plan.decide(0.0)

    assert given_out(told) == {1: "next", 2: "next"}
    assert of(Retry, told) == []
    assert plan.delivered("spot", 0, sha(0), 1.0)


def test_out_of_memory_halves_what_is_in_flight_on_that_node_only() -> None:
    plan = scheduler(20, in_flight=4, error=0)
    plan.joined("a", "small")
    plan.joined("b", "large")
    plan.decide(0.0)
    plan.ran_out_of_memory("a", 0, "no memory")

    told = plan.decide(0.0)
    assert of(Halve, told) == [Halve("small", 2)]
    assert [one.cause for one in told if isinstance(one, Retry)] == ["memory"]
    assert given_out(told) == {}  # three are still there

    for number in (2, 4, 6):
        plan.delivered("a", number, sha(number), 1.0)
    assert sorted(given_out(plan.decide(1.0)).values()) == ["a", "a"]
    plan.lost("a", "killed by the system", out_of_memory=True)
    plan.joined("c", "small")
    assert list(given_out(plan.decide(2.0)).values()) == ["c"]


def test_out_of_memory_with_one_job_is_an_error_of_the_job() -> None:
    plan = scheduler(1, error=0)
    plan.joined("a", "small")
    plan.decide(0.0)
    plan.ran_out_of_memory("a", 0, "no memory")

    assert [one.why for one in plan.quarantined] == ["no memory"]


def test_a_straggler_is_done_again_on_an_idle_worker_and_the_first_receipt_wins() -> None:
    plan = scheduler(3, stragglers=Stragglers(times=3.0, at_least_s=5.0))
    plan.joined("a-slow", "n")
    plan.joined("b-fast", "m")
    plan.decide(0.0)
    for number in (1, 2):
        assert plan.delivered("b-fast", number, sha(number), 2.0 * number)
        plan.decide(2.0 * number)

    assert plan.decide(4.5) == []
    assert plan.decide(7.0) == [
        Submit("b-fast", Job(number=0, shard="shard-00000.tar", first=0, last=1), copy=True)
    ]
    assert plan.delivered("b-fast", 0, sha(0), 8.0)
    assert plan.finished
    assert not plan.delivered("a-slow", 0, sha(0), 9.0)
    assert plan.num_delivered == 3


def test_a_second_copy_with_other_bytes_is_fatal() -> None:
    plan = scheduler(2, stragglers=Stragglers(times=1.5, at_least_s=0.0))
    plan.joined("a", "n")
    plan.joined("b", "m")
    plan.decide(0.0)
    plan.delivered("b", 1, sha(1), 1.0)
    assert given_out(plan.decide(10.0)) == {0: "b"}
    plan.delivered("b", 0, sha(0), 11.0)
    plan.delivered("a", 0, sha(7), 11.0)

    stops = [one for one in plan.decide(11.0) if isinstance(one, Stop)]
    assert [one.determinism for one in stops] == [True]
    assert "shard-00000.tar: was made twice" in stops[0].why


def test_a_copy_that_fails_leaves_the_job_to_the_other() -> None:
    plan = scheduler(2, error=0, stragglers=Stragglers(times=1.5, at_least_s=0.0))
    plan.joined("a", "n")
    plan.joined("b", "m")
    plan.decide(0.0)
    plan.delivered("b", 1, sha(1), 1.0)
    plan.decide(10.0)
    plan.failed("b", 0, "a bug")

    assert plan.delivered("a", 0, sha(0), 11.0)
    assert plan.finished and plan.quarantined == []


@pytest.mark.parametrize("storage", [True, False])
def test_failures_in_a_row_stop_the_build(storage: bool) -> None:
    """A full disk fails the next job as well; so does a bug that every job meets."""
    plan = scheduler(100, error=0 if not storage else 1)
    plan.joined("a", "n")
    stops: list[Action] = []
    tries = 0
    while not stops:
        for number in given_out(told := plan.decide(0.0)):
            tries += 1
            plan.failed("a", number, "No space left on device", storage=storage)
        stops = of(Stop, told)

    assert tries == (STORAGE_IN_A_ROW if storage else ASIDE_IN_A_ROW)
    assert plan.finished and plan.decide(0.0) == []
