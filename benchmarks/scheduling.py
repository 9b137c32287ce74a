"""What a build on many workers costs its driver, and what a restart costs.

    python benchmarks/scheduling.py driver     100 000 jobs on 64 workers that answer at once, in this process
    python benchmarks/scheduling.py actors     the same with Ray's calls: each worker an actor in a process of its own
    python benchmarks/scheduling.py restart    99 000 of 100 000 receipts are there: how long until work goes on
    python benchmarks/scheduling.py workers    real decoding on 1, 2 and 4 workers of this machine

Nothing is decoded in the first three: the driver loop, the scheduler, the event log, the receipts and the folder are
those of a build. Numbers and machine: docs/results/scheduling.md.
"""

import argparse
import json
import os
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import yaml

from cdgen import __version__
from cdgen.builders.crew import Delivered, Event, Facts, Hello, Ready, Report
from cdgen.builders.drawn import DrawnTokens
from cdgen.builders.drive import Driver
from cdgen.builders.events import Recorded
from cdgen.builders.fetch import Source
from cdgen.builders.jobs import Job, jobs
from cdgen.builders.prefixes import Prefix
from cdgen.builders.preflight import Look
from cdgen.builders.profile import Profile, Workers
from cdgen.builders.worker import Context
from cdgen.progress import Quiet
from cdgen.recipes.schema import Generate
from cdgen.resources import resource
from cdgen.shards.layout import index_path, shard_path
from cdgen.storage import FileStamp, Receipt
from cdgen.storage.places import Folder
from cdgen.storage.receipts import RECEIPTS, receipt_bytes

DECODE = "d" * 64
GENERATE = Generate(
    prefix_tokens=8, completions=8, new_tokens=400, rows_per_batch=8, batches_per_shard=1
)
CLASS = {"device": "none"}
PREFIXES_PER_JOB = 64


def receipt_of(job: Job) -> Receipt:
    """What a worker would send back."""
    sha256 = f"{job.number:064x}"
    return Receipt(
        name=job.shard,
        digest=DECODE,
        sha256=sha256,
        num_bytes=10_240,
        num_samples=8,
        num_tokens=3_200,
        num_text_bytes=9_000,
        index=FileStamp(name=job.shard.replace(".tar", ".parquet"), sha256=sha256, num_bytes=4_096),
        numeric_class={"device": "NVIDIA H200", "torch": "2.13.0", "transformers": "5.23.0", "engine": "2",
                       "dtype": "bfloat16 weights, bfloat16 cache", "threads": "2"},
        counts={"rows": 8, "empty_parts": 0},
    )  # fmt: skip


def memory_mib() -> float:
    """What this process has in memory now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


class AtOnce:
    """A crew (`cdgen.builders.crew.Crew`) whose workers answer at once, a report a second from each included."""

    grows = True

    def __init__(self, workers: int, clock: Callable[[], float]) -> None:
        self._count, self._clock = workers, clock
        self._names: list[str] = []
        self._events: deque[Event] = deque()
        self._reported = clock()

    def most(self) -> int:
        """As many as there are."""
        return self._count

    def want(self, number: int) -> None:
        """They come at once."""
        for n in range(len(self._names), number):
            self._names.append(f"w{n:03d}")
            facts = Facts(cdgen=__version__, numeric_class=CLASS, host=f"host{n // 8}", pid=n)
            self._events.append(Hello(self._names[-1], f"node{n // 8}", facts))

    def events(self, timeout_s: float) -> list[Event]:
        """One answer at a time: the driver gets nothing for free."""
        now = self._clock()
        if now - self._reported >= 1.0:
            self._reported = now
            return [Report(name, {}, 0, leaving=False) for name in self._names]
        return [self._events.popleft()] if self._events else []

    def prepare(self, worker: str) -> None:
        """It has nothing to load."""
        self._events.append(Ready(worker, "nothing is decoded"))

    def look(self, worker: str, look: Look) -> None:
        """Nobody is asked to."""
        raise AssertionError

    def submit(self, worker: str, job: Job) -> None:
        """Done."""
        self._events.append(Delivered(worker, job.number, receipt_of(job)))

    def refuse(self, worker: str) -> None:
        """Nobody is."""
        raise AssertionError

    def dismiss(self, worker: str) -> None:
        """Nobody leaves."""
        raise AssertionError

    def shortage(self) -> str:
        """None."""
        raise AssertionError


def unheard(amount: int = 1, *, note: str = "") -> None:
    """Nobody listens (`cdgen.progress.Advance`)."""


def drive(crew: Any, count: int, folder: Path, profile: Profile) -> dict[str, float]:
    """Drive jobs through a crew: milliseconds of processor and of wall time per job, and how memory grew."""
    log = Recorded(Quiet(), folder)
    seen = 0
    memory: dict[int, float] = {}

    def on_shard(receipt: Receipt, worker: str) -> None:
        nonlocal seen
        seen += 1
        if seen in (count // 10, count):
            memory[seen] = memory_mib()
        log.event("shard", name=receipt.name, tokens=receipt.num_tokens, worker=worker)

    driver = Driver(
        jobs(count, GENERATE, decode_digest=DECODE),
        crew,
        profile,
        numeric_class=None,
        log=log,
        clock=time.monotonic,
        on_shard=on_shard,
    )
    wall, processor = time.monotonic(), time.process_time()
    driver.run(DrawnTokens(unheard, lambda _: 3_200))
    wall, processor = time.monotonic() - wall, time.process_time() - processor
    assert seen == count
    return {
        "jobs": count,
        "ms_per_job": 1e3 * wall / count,
        "processor_ms_per_job": 1e3 * processor / count,
        "mib_at_a_tenth": memory[count // 10],
        "mib_at_the_end": memory[count],
    }


def driver(count: int, workers: int) -> dict[str, float]:
    """The driver and the scheduler alone."""
    profile = Profile(
        version=1, name="fake", engine="ray", workers=Workers(min=workers, max=workers)
    )
    with tempfile.TemporaryDirectory() as folder:
        crew = AtOnce(workers, time.monotonic)
        return {"workers": workers, **drive(crew, count, Path(folder), profile)}


def actors(count: int, workers: int) -> dict[str, float]:
    """The driver with real actors, which answer at once; its processor time is that of Ray's threads in it too."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault(
        "RAY_raylet_start_wait_time_s", "120"
    )  # 30 s are not enough beside others
    import ray

    from cdgen.builders.hand import Order
    from cdgen.builders.ray import crew as ray_crew
    from cdgen.builders.ray.session import NAMESPACE

    class Pretend(ray_crew.Actor):
        def hello_from(self) -> tuple[Facts, str]:
            facts = Facts(cdgen=__version__, numeric_class=CLASS, host="here", pid=os.getpid())
            return facts, ray.get_runtime_context().get_node_id()

        def load_sent(self, order: Any, sent: Any) -> str:
            return "nothing is decoded"

        def do(self, job: Job, prefixes: Sequence[Prefix]) -> Receipt:
            assert len(prefixes) == PREFIXES_PER_JOB
            return receipt_of(job)

    nothing: Any = None
    model = Source(sha256="e" * 64, folder=Path("/"), files=())
    order = Order(
        recipe=nothing,
        context=Context(
            out=Path(),
            generate=GENERATE,
            digests=nothing,
            tokenizer=nothing,
            prefixes=Prefixes(),
            numeric_class=CLASS,
        ),
        expert=model,
        amateur=None,
        further=(),
        place=Folder(Path()),
        cache=None,
    )
    needs = Workers(min=workers, max=workers, cpus=1 / workers, gpus=0)
    profile = Profile(version=1, name="fake", engine="ray", address="local", workers=needs)
    quiet = {"log_to_driver": False, "include_dashboard": False, "namespace": NAMESPACE}
    ray.init("local", num_cpus=1, object_store_memory=80_000_000, **quiet)
    with tempfile.TemporaryDirectory() as folder, patch.object(ray_crew, "Actor", Pretend):
        crew = ray_crew.RayCrew(profile, order, "benchmark", clock=time.monotonic)
        with closing(crew):
            return {"workers": workers, **drive(crew, count, Path(folder), profile)}


class Prefixes(Sequence[Prefix]):
    """The same for every job, as many and as long as those of a real one."""

    def __init__(self) -> None:
        self._of_a_job = [
            Prefix(
                document=f"{n:032x}",
                source="tales",
                license="Apache-2.0",
                chunk=n,
                start=0,
                end=120,
                ids=np.arange(n, n + 32, dtype=np.uint16),
            )
            for n in range(PREFIXES_PER_JOB)
        ]

    def __len__(self) -> int:
        return 1 << 40

    def __getitem__(self, which: Any) -> Any:
        """Any slice is a job's."""
        return self._of_a_job


def restart(count: int, missing: int, folder: Path | None) -> dict[str, float]:
    """From a folder with receipts to the list of jobs that are left, as the decode stage does it."""
    home = Path(folder or tempfile.mkdtemp())
    try:
        every = list(jobs(count, GENERATE, decode_digest=DECODE))
        for job in every[: count - missing]:
            _pretend(home, receipt_of(job))
        os.sync()
        before = memory_mib()
        started, processor = time.monotonic(), time.process_time()
        done = Folder(home).receipts()
        read_s = time.monotonic() - started
        todo = [job for job in every if job.shard not in done]
        Folder(home).withdraw(job.shard for job in todo)
        wall, processor = time.monotonic() - started, time.process_time() - processor
    finally:
        if folder is None:
            shutil.rmtree(home)
    assert len(todo) == missing
    return {
        "receipts": len(done),
        "read_s": read_s,
        "in_all_s": wall,
        "processor_s": processor,
        "mib": memory_mib() - before,
    }


def _pretend(home: Path, receipt: Receipt) -> None:
    """A shard and its index that have the right sizes and no content, and their receipt."""
    for path, size in (
        (shard_path(home, receipt.name), receipt.num_bytes),
        (index_path(home, receipt.name), receipt.index.num_bytes),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.truncate(size)
    path = home / RECEIPTS / f"{receipt.name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(receipt_bytes(receipt))


def small_recipe(folder: Path) -> Path:
    """The quickstart recipe with a minute of decoding in shards of one batch, and hardly trained."""
    packaged = resource("recipes", "quickstart")
    recipe = yaml.safe_load(packaged.read_text(encoding="utf-8"))
    (source,) = recipe["text"]["sources"]
    source["path"] = str(packaged.parent / source["path"])
    recipe["expert"]["train"] |= {"steps": 20, "checkpoint_every": 10, "warmup_steps": 2}
    recipe["amateur"]["checkpoint"] = 10
    recipe["generate"] |= {"rows_per_batch": 48, "batches_per_shard": 1, "threads": 1}
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return path


def workers(recipe: Path, cache: Path | None, counts: Sequence[int]) -> Iterator[dict[str, float]]:
    """A recipe decoded by some workers of this machine: tokens per second, once the last worker has joined."""
    from cdgen.builders.events import read_events
    from cdgen.builders.run import build

    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "out"
            needs = Workers(min=count, max=count, cpus=0.1)
            profile = Profile(version=1, name="here", engine="ray", workers=needs, stragglers=None)
            manifest = build(recipe, out, cache=cache, profile=profile).manifest_digest
            events = read_events(out)
        begun = max(e["time"] for e in events if e["event"] == "worker" and e["state"] == "joined")
        shards = [e for e in events if e["event"] == "shard"]
        took = max(e["time"] for e in shards) - begun
        drawn = next(e["done"] for e in events if e["event"] == "end" and e["stage"] == "decode")
        yield {
            "workers": count,
            "shards": len(shards),
            "tokens_per_s": drawn / took,
            "manifest": manifest,
        }


def main() -> None:
    """Run one of them, and print its numbers as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("what", choices=("driver", "actors", "restart", "workers"))
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=64)
    parser.add_argument("--missing", type=int, default=1_000)
    parser.add_argument("--counts", default="1,2,4")
    parser.add_argument("--recipe", type=Path)
    parser.add_argument("--cache", type=Path)
    given = parser.parse_args()
    match given.what:
        case "driver":
            print(json.dumps(driver(given.jobs, given.workers)))
        case "actors":
            print(json.dumps(actors(given.jobs, given.workers)))
        case "restart":
            print(json.dumps(restart(given.jobs, given.missing, None)))
        case "workers":
            counts = [int(count) for count in given.counts.split(",")]
            with tempfile.TemporaryDirectory() as folder:
                recipe = given.recipe or small_recipe(Path(folder))
                for facts in workers(recipe, given.cache, counts):
                    print(json.dumps(facts), flush=True)


if __name__ == "__main__":
    main()
