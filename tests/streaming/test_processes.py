"""A stream among forks, spawned workers and signals: the same blocks, and nothing hangs."""

import os
import signal
from collections.abc import Sequence
from pathlib import Path
from threading import Event, Thread
from threading import enumerate as threads
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

import cdgen
from cdgen.streaming import loader as loader_module
from cdgen.streaming.dataset import BlockDataset, Item

GOLDEN = Path(__file__).resolve().parents[2] / "shards/golden/format-1"


@pytest.fixture
def blocks() -> BlockDataset:
    """Opened, and read from: there are maps and loaded windows."""
    made = cdgen.blocks(GOLDEN, block=32)
    made.batch(range(len(made)))
    return made


def ids(batches: Any) -> torch.Tensor:
    return torch.cat([batch["input_ids"] for batch in batches])


@pytest.mark.parametrize(("how", "num_workers"), [("fork", 2), ("spawn", 1)])
def test_workers_that_begin_after_reading(blocks: BlockDataset, how: str, num_workers: int) -> None:
    """They map the files themselves, or have the parent's maps."""
    want = ids(blocks.loader(4, prefetch=0))
    made = blocks.loader(4, num_workers=num_workers, multiprocessing_context=how)
    assert torch.equal(ids(made), want)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_workers_that_are_forked_while_a_thread_reads(blocks: BlockDataset) -> None:
    """The thread holds the lock of the blocks; it is not there in the child."""
    held, done = Event(), Event()

    def read() -> None:
        with blocks._lock:
            held.set()
            done.wait(60)

    thread = Thread(target=read)
    thread.start()
    held.wait(60)
    try:
        loader = DataLoader(blocks, batch_size=4, num_workers=1, timeout=30)
        found = next(iter(loader))["input_ids"]
    finally:
        done.set()
        thread.join()
    assert torch.equal(found, blocks.batch(range(4))["input_ids"])


@pytest.fixture
def stuck(blocks: BlockDataset, monkeypatch: pytest.MonkeyPatch) -> tuple[Event, Event]:
    """The third read waits, with the fourth batch on: (it has begun, it may go on)."""
    begun, go_on, first = Event(), Event(), blocks.batch

    def batch(js: Sequence[int]) -> Item:
        if js[0] >= 6:
            begun.set()
            go_on.wait(60)
        return first(js)

    monkeypatch.setattr(blocks, "batch", batch)
    monkeypatch.setattr(loader_module, "_LEFT_AFTER_S", 0.01)
    return begun, go_on


@pytest.mark.parametrize("where", ["waiting", "working"])
def test_an_interrupt_comes_through_and_the_thread_ends(
    blocks: BlockDataset, stuck: tuple[Event, Event], where: str
) -> None:
    """Of a loop that waits for a batch that does not come, such as a download, or is at work on one."""
    begun, go_on = stuck

    def interrupt() -> None:
        begun.wait(60)
        os.kill(os.getpid(), signal.SIGINT)

    def train() -> None:
        for number, _ in enumerate(blocks.loader(2)):
            if number == 1 and where == "working":
                begun.wait(60)
                signal.raise_signal(signal.SIGINT)
            elif number == 1:
                Thread(target=interrupt).start()

    with pytest.raises(KeyboardInterrupt):
        train()
    left = [thread for thread in threads() if thread.name == "cdgen-prefetch"]
    assert len(left) == 1
    go_on.set()
    left[0].join(60)
    assert not left[0].is_alive()
