"""The driver, on a crew that does what a test says: whom it takes, whom it refuses, and when it gives up."""

from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from corpora import events

from cdgen import __version__
from cdgen.builders.crew import Delivered, Event, Facts, Hello, Looked, Lost, Ready, Report, Sent
from cdgen.builders.drawn import DrawnTokens
from cdgen.builders.drive import Driver
from cdgen.builders.events import Recorded
from cdgen.builders.jobs import Job
from cdgen.builders.numeric_class import refusal
from cdgen.builders.preflight import Look, Measured
from cdgen.builders.profile import Profile
from cdgen.errors import BuildError
from cdgen.progress import Quiet
from cdgen.storage import FileStamp, Receipt

LOOK = Look(prefixes=(), per_prefix=1, ids_BT=np.zeros((1, 1), np.int64))
SEEN = Measured(
    num_documents=1,
    num_positions=1,
    expert_nats=3.0,
    amateur_nats=3.4,
    kl_nats=0.3,
    moved=0.2,
    head_of_one_share=0.2,
    mean_head_size=9.0,
    num_completions=1,
    repetition=0.1,
    loop_share=0.1,
    clone_share=0.0,
)
CPU, GPU = {"device": "a CPU"}, {"device": "a GPU"}


def job(number: int) -> Job:
    return Job(number=number, shard=f"synthetic-{number}.tar", first=number, last=number + 1)


def receipt(one: Job) -> Receipt:
    counts: dict[str, Any] = {"num_samples": 1, "num_tokens": 3, "num_text_bytes": 9}
    index = FileStamp(name=f"{one.number}.parquet", sha256="0", num_bytes=1)
    return Receipt(name=one.shard, digest="d", sha256="0", num_bytes=1, index=index, **counts)


class Crew:
    """Workers of given classes, in order of their coming; each job is done at once. Its clock ticks when it waits."""

    def __init__(
        self, *classes: Mapping[str, str], grows: bool = True, version: str = __version__
    ) -> None:
        self.coming = deque(classes)
        self.grows, self.version = grows, version
        self.now = 0.0
        self.asked = self.born = 0
        self.events_: deque[Event] = deque()
        self.did: dict[str, list[int]] = {}
        self.cannot_load: set[str] = set()
        self.cannot_fetch = ""
        """Why not."""
        self.looked: list[str] = []
        self.looks: dict[str, Event] = {}
        """What comes of a look, where it is not what is seen."""

    def clock(self) -> float:
        return self.now

    def most(self) -> int:
        return 3

    def want(self, number: int) -> None:
        self.asked = number
        while len(self.did) < number and self.coming:
            name = f"w{self.born}"
            self.born += 1
            self.did[name] = []
            facts = Facts(cdgen=self.version, numeric_class=self.coming.popleft(), host="h", pid=1)
            self.events_.append(Hello(name, "n", facts))

    def events(self, timeout_s: float) -> list[Event]:
        self.now += timeout_s
        found, self.events_ = list(self.events_), deque()
        return found

    def prepare(self, worker: str) -> None:
        if worker in self.cannot_load:
            self.did.pop(worker)
            self.events_.append(Lost(worker, "no such file", failed=True))
            return
        if self.cannot_fetch:
            self.events_.append(Sent(worker, self.cannot_fetch))
        self.events_.append(Ready(worker, "path"))

    def look(self, worker: str, look: Look) -> None:
        assert not any(self.did.values()), "a job was given out before"
        self.looked.append(worker)
        end = self.looks.get(worker, Looked(worker, SEEN))
        if isinstance(end, Lost):
            self.did.pop(worker)
        self.events_.append(end)

    def submit(self, worker: str, job: Job) -> None:
        self.did[worker].append(job.number)
        self.events_.append(Delivered(worker, job.number, receipt(job)))

    def refuse(self, worker: str) -> None:
        pass

    def dismiss(self, worker: str) -> None:
        raise AssertionError

    def shortage(self) -> str:
        return "a worker needs 8 GPU; the nodes have 1 CPU together"


class Leaving(Crew):
    """Its first worker says that it leaves as soon as it is ready."""

    def __init__(self, *classes: Mapping[str, str]) -> None:
        super().__init__(*classes)
        self.dismissed: list[str] = []

    def prepare(self, worker: str) -> None:
        super().prepare(worker)
        if worker == "w0":
            self.events_.append(Report(worker, {}, 0, leaving=True))

    def dismiss(self, worker: str) -> None:
        if worker not in self.dismissed:
            self.dismissed.append(worker)
            self.did.pop(worker)
            self.events_.append(Lost(worker, "left", expected=True))


class Heard:
    """Keeps what it is told (`cdgen.progress.Advance`)."""

    def __init__(self, amounts: list[int]) -> None:
        self.amounts = amounts

    def __call__(self, amount: int = 1, *, note: str = "") -> None:
        self.amounts.append(amount)


def drive(
    crew: Crew,
    folder: Path,
    *,
    count: int = 4,
    numeric_class: Any = None,
    look: Look | None = None,
    **fields: Any,
) -> list[str]:
    """Do some jobs; returns the shards that were delivered."""
    workers = fields.pop("workers", {"max": 3})
    profile = Profile.model_validate(
        {"version": 1, "name": "here", "engine": "ray", "workers": workers, **fields}
    )
    done: list[str] = []
    tokens: list[int] = []
    driver = Driver(
        iter([job(n) for n in range(count)]),
        crew,
        profile,
        numeric_class=numeric_class,
        log=Recorded(Quiet(), folder),
        clock=crew.clock,
        on_shard=lambda receipt, _: done.append(receipt.name),
    )
    if look is not None:
        assert driver.look(look) == SEEN
    driver.run(DrawnTokens(Heard(tokens), lambda _: 10))
    assert sum(tokens) == 10 * count
    return done


def test_a_worker_of_another_class_is_refused_by_name_and_the_others_go_on(tmp_path: Path) -> None:
    crew = Crew(CPU, GPU, CPU)

    assert len(drive(crew, tmp_path, count=9)) == 9

    assert crew.did["w1"] == [] and crew.did["w0"] and crew.did["w2"]
    (refused,) = [one for one in events(tmp_path, "worker") if one["state"] == "refused"]
    assert refused["worker"] == "w1"
    assert (
        "w1 on h is refused: it is of another numeric class (device a GPU, the build's a CPU)"
        in str(refused["why"])
    )


def test_the_class_of_the_shards_that_are_there_decides(tmp_path: Path) -> None:
    crew = Crew(CPU, GPU)

    drive(crew, tmp_path, numeric_class=GPU)

    assert crew.did["w0"] == [] and crew.did["w1"]


def test_without_anybody_of_the_class_the_build_stops(tmp_path: Path) -> None:
    """At once where nobody else can come, after some patience where somebody can."""
    with pytest.raises(BuildError, match="w0 on h is refused: it is of another numeric class"):
        drive(Crew(CPU, grows=False), tmp_path, numeric_class=GPU)
    crew = Crew(CPU)
    with pytest.raises(BuildError, match="w0 on h is refused"):
        drive(crew, tmp_path, numeric_class=GPU, patience_s=40.0)
    assert 40.0 < crew.now < 45.0


def test_another_version_of_cdgen_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        BuildError, match=r"w0 on h is refused: it has cdgen 0.0.1, and the driver "
    ):
        drive(Crew({}, grows=False, version="0.0.1"), tmp_path)
    assert refusal("w", "h", __version__, CPU, CPU) is None


def test_without_any_worker_the_build_says_what_is_short(tmp_path: Path) -> None:
    with pytest.raises(
        BuildError,
        match=r"no worker in 30 s \(patience_s of the profile here\): a worker needs 8 GPU",
    ):
        drive(Crew(), tmp_path, patience_s=30.0)


def test_decoding_waits_for_the_least_number_of_workers(tmp_path: Path) -> None:
    crew = Crew(CPU, CPU, CPU)

    drive(crew, tmp_path, count=6, workers={"min": 3, "max": 3}, in_flight=1)

    assert sorted(map(len, crew.did.values())) == [2, 2, 2]


def test_no_more_workers_are_asked_for_than_jobs_are_left(tmp_path: Path) -> None:
    crew = Crew(CPU, CPU, CPU)

    drive(crew, tmp_path, count=1)

    assert crew.asked == 1


def test_a_worker_that_cannot_load_is_tried_again_and_then_named(tmp_path: Path) -> None:
    crew = Crew(CPU, CPU, CPU, CPU)
    crew.cannot_load = {"w0", "w1"}

    with pytest.raises(
        BuildError, match="no worker could get ready; the last one, w1: no such file"
    ):
        drive(crew, tmp_path, workers={"max": 1})


def test_why_a_model_is_sent_is_told_once_for_a_machine(tmp_path: Path) -> None:
    """Three workers on one; told again if it is for another reason."""
    crew = Crew(CPU, CPU, CPU)
    crew.cannot_fetch = "access is refused"
    drive(crew, tmp_path)
    (sent,) = events(tmp_path, "sent")

    assert (sent["node"], sent["why"]) == ("h", "access is refused")


def test_one_worker_looks_before_any_job_is_given_out(tmp_path: Path) -> None:
    crew = Crew(CPU, CPU, CPU)

    assert len(drive(crew, tmp_path, look=LOOK)) == 4

    assert crew.looked == ["w0"]


def test_another_worker_looks_when_the_first_one_dies_of_it(tmp_path: Path) -> None:
    """Also when there was only one, and another has to be started."""
    crew = Crew(CPU, CPU, CPU)
    crew.looks = {"w0": Lost("w0", "killed"), "w1": Lost("w1", "killed")}

    assert len(drive(crew, tmp_path, look=LOOK, workers={"max": 1})) == 4

    assert crew.looked == ["w0", "w1", "w2"]


def test_a_look_that_kills_its_workers_stops_the_build(tmp_path: Path) -> None:
    """A machine that was to go is held against nobody."""
    crew = Crew(*[CPU] * 5)
    crew.looks = {name: Lost(name, "killed") for name in ("w1", "w2", "w3")}
    crew.looks["w0"] = Lost("w0", "the node is drained", expected=True)

    with pytest.raises(BuildError, match="the preflight killed 3 workers; the last one, w3: kill"):
        drive(crew, tmp_path, look=LOOK, retries={"death": 2, "error": 1})


def test_a_look_that_fails_stops_the_build_in_the_workers_words(tmp_path: Path) -> None:
    crew = Crew(CPU)
    crew.looks = {"w0": Looked("w0", None, "the expert's logits are not a number")}

    with pytest.raises(BuildError, match=r"^the expert's logits are not a number$"):
        drive(crew, tmp_path, look=LOOK)


def test_a_worker_that_leaves_looks_at_nothing(tmp_path: Path) -> None:
    """It is let go at once, and another one is asked for."""
    crew = Leaving(CPU, CPU)

    assert len(drive(crew, tmp_path, look=LOOK, workers={"max": 1})) == 4

    assert crew.looked == ["w1"] and crew.dismissed == ["w0"]


def test_tokens_count_once_however_often_a_job_is_begun() -> None:
    heard: list[int] = []
    tally = DrawnTokens(Heard(heard), lambda _: 100)

    for tokens in (30, 60, 10, 50, 70):
        tally.drawn(0, tokens)
    tally.done(job(0))

    assert heard == [30, 30, 10, 30]
