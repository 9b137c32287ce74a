"""The trainers' examples of docs/training.md: the model sees the pure order, before and after a resume.

What a model saw is compared with the global order itself, so an interrupted and resumed run is also the same as one
that was never interrupted.
"""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import cdgen

CHECKOUT = Path(__file__).parents[2]
EXAMPLES = CHECKOUT / "docs/examples"
GUIDE = CHECKOUT / "docs/training.md"
CORPUS = CHECKOUT / "shards/golden/format-1"

Seen = list[list[int]]
"""Blocks of ids, one after the other."""


class Host:
    """The process that runs examples (tests/example_host.py)."""

    def __init__(self, home: Path) -> None:
        self.home, self.runs = home, 0
        host = Path(__file__).parents[1] / "example_host.py"
        environment = {
            **os.environ,
            **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"),
            "MASTER_ADDR": "127.0.0.1",
        }
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", host],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=home,
        )  # fmt: skip

    def run(self, name: str, *arguments: object, ranks: int = 0) -> list[list[Seen]]:
        """By rank the batches that the model saw. `ranks` above 0: as torchrun starts them."""
        self.runs += 1
        logs = [str(self.home / f"{self.runs}-{rank}.log") for rank in range(max(ranks, 1))]
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        each = {"WORLD_SIZE": str(ranks), "MASTER_PORT": str(port)} if ranks else {}
        own = [{"RANK": str(r), "LOCAL_RANK": str(r)} if ranks else {} for r in range(len(logs))]
        run = {
            "script": str(EXAMPLES / f"{name}.py"),
            "arguments": [str(CORPUS), *map(str, arguments)],
            "environments": [each | one for one in own],
            "logs": logs,
        }
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps(run) + "\n")
        self.process.stdin.flush()
        codes = json.loads(self.process.stdout.readline())
        texts = [Path(log).read_text(encoding="utf-8") for log in logs]
        assert not any(codes), texts[codes.index(next(filter(None, codes)))][-2000:]
        return [[json.loads(line) for line in text.splitlines()] for text in texts]


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """One for all examples."""
    made = Host(tmp_path_factory.mktemp("examples"))
    yield made
    assert made.process.stdin and made.process.stdout
    made.process.stdin.close()
    made.process.wait(60)
    made.process.stdout.close()


@pytest.fixture(scope="module")
def order() -> Seen:
    """Every block of the run of the examples, in global order, without a trainer."""
    blocks = cdgen.blocks(CORPUS, block=64, seed=1, epochs=20)
    found: Seen = blocks.batch(range(len(blocks)))["input_ids"].tolist()
    assert len(found) > 500
    return found


def in_turn(ranks: list[list[Seen]]) -> Seen:
    """What all ranks saw, in global order: rank r of n took blocks r, r + n, ..."""
    steps = zip(*ranks, strict=True)
    return [block for batches in steps for blocks in zip(*batches, strict=True) for block in blocks]


@pytest.mark.parametrize("name", ["plain_loop", "with_trainer"])
def test_a_resumed_run_is_the_uninterrupted_one(
    host: Host, order: Seen, tmp_path: Path, name: str
) -> None:
    first = in_turn(host.run(name, tmp_path / "out", 5))
    rest = in_turn(host.run(name, tmp_path / "out", 9))

    assert (len(first), len(rest)) == (20, 16)
    assert first + rest == order[:36]


def test_the_trainers_own_workers_change_nothing(host: Host, order: Seen, tmp_path: Path) -> None:
    """Persistent ones, and resumed with another number of them: they have read ahead of what was trained on."""
    first = in_turn(host.run("with_trainer", tmp_path / "out", 5, 2))
    rest = in_turn(host.run("with_trainer", tmp_path / "out", 7, 1))

    assert (len(first), len(rest)) == (20, 8)
    assert first + rest == order[:28]


def test_lightning_resumes_and_ends_where_the_run_ends(
    host: Host, order: Seen, tmp_path: Path
) -> None:
    """More steps are asked for than there are: the last one is that of the last whole batch."""
    first = in_turn(host.run("with_lightning", tmp_path, 30))
    rest = in_turn(host.run("with_lightning", tmp_path, len(order) // 4))

    assert len(first) == 120
    assert first + rest == order[: len(order) // 4 * 4]


def test_dataloaders_with_0_2_and_4_workers_are_one_run(
    host: Host, order: Seen, tmp_path: Path
) -> None:
    """Interrupted and resumed with another number of workers each time, in the middle of their rounds."""
    seen: Seen = []
    for num_workers, last_step in ((0, 3), (2, 6), (4, 11), (0, 13)):
        seen += in_turn(host.run("with_dataloader", tmp_path / "state", last_step, num_workers))
        assert seen == order[: 4 * last_step]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_torchdata_resumes(host: Host, order: Seen, tmp_path: Path, num_workers: int) -> None:
    first, rest = (
        in_turn(host.run("with_torchdata", tmp_path / "state", last_step, num_workers))
        for last_step in (3, 8)
    )
    assert len(first) == 12
    assert first + rest == order[:32]


@pytest.mark.parametrize("name", ["with_ddp", "with_accelerate"])
def test_two_processes_resumed_on_one_and_on_three(
    host: Host, order: Seen, tmp_path: Path, name: str
) -> None:
    """The global batch stays 12 blocks; the union of the ranks is the global order."""
    seen: Seen = []
    for ranks, last_step in ((2, 3), (1, 5), (3, 7)):
        by_rank = host.run(name, tmp_path / "out", last_step, ranks=ranks)
        assert [len(batches[0]) for batches in by_rank] == [12 // ranks] * ranks
        seen += in_turn(by_rank)
        assert seen == order[: 12 * last_step]


@pytest.mark.parametrize("name", ["with_webdataset", "with_datasets"])
def test_without_cdgen_the_samples_are_the_same(tmp_path: Path, name: str) -> None:
    """In training order; webdataset leaves files open, so it runs in a process of its own."""
    hidden = "import runpy, sys; sys.modules['cdgen'] = None; sys.argv[:] = sys.argv[1:]; "
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", hidden + "runpy.run_path(sys.argv[0])",
         EXAMPLES / f"{name}.py", CORPUS],
        capture_output=True, text=True, check=False, env={**os.environ, "HF_HOME": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines() == [
        f"{sample.key} {sample.meta.source} {len(sample.ids)} {sample.text[:20]!r}"
        for sample in cdgen.open_corpus(CORPUS).samples("mixed")
    ]


def test_the_guide_shows_what_is_run_here() -> None:
    """Every example stands in the guide as it is, and every one is run by a test of this file."""
    guide = GUIDE.read_text(encoding="utf-8")
    own = Path(__file__).read_text(encoding="utf-8")
    for example in EXAMPLES.glob("*.py"):
        code = example.read_text(encoding="utf-8")
        assert f"```python\n{code}```\n" in guide, example.name
        assert f'"{example.stem}"' in own or example.stem == "tiny"
