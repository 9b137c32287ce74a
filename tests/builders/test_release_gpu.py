"""What the driver holds of a GPU after training is given back before workers are asked for: they may be on the same.

Where there is no GPU a stand-in says only whether torch is asked, and when; the last test, which wants one, measures.
"""

import gc
import sys
import weakref
from typing import Any

import pytest
import torch

pytest.importorskip("ray")

from cdgen.builders.ray import decoding
from cdgen.builders.ray.decoding import decode_on_ray


class Held:
    """As a trainer's model, optimizer and hooks do: refers to itself, so that only a collection frees it."""

    def __init__(self, weights: torch.Tensor) -> None:
        self.weights, self.itself = weights, self


class NoClusterError(Exception):
    """What comes of asking for workers, here."""


@pytest.fixture
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> Any:
        raise NoClusterError

    monkeypatch.setattr(decoding, "session", refuse)


def decode() -> None:
    """As a build does, as far as to the workers."""
    nothing: Any = None
    with pytest.raises(NoClusterError):
        decode_on_ray(nothing, nothing)


@pytest.mark.usefixtures("no_cluster")
def test_what_is_garbage_is_collected_before_torch_gives_its_memory_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The other way round torch would keep what only the garbage holds."""
    held = Held(torch.zeros(8))
    weights, alive = weakref.ref(held.weights), []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: alive.append(weights() is not None))
    gc.disable()  # nothing else may collect it
    try:
        del held
        assert weights() is not None
        decode()
    finally:
        gc.enable()

    assert alive == [False]


@pytest.mark.usefixtures("no_cluster")
def test_a_driver_that_used_no_gpu_begins_with_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """It neither imports torch for it nor takes a context, of some 500 MB, on a GPU."""
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: pytest.fail("a GPU was asked"))
    decode()

    monkeypatch.delitem(sys.modules, "torch")
    decode()
    assert "torch" not in sys.modules


@pytest.mark.usefixtures("no_cluster")
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
def test_a_gpu_has_its_memory_again() -> None:
    size = 1 << 28
    held = Held(torch.zeros(size, dtype=torch.uint8, device="cuda"))
    free = torch.cuda.mem_get_info()[0]
    assert held.weights.is_cuda
    del held

    decode()

    assert torch.cuda.mem_get_info()[0] >= free + size // 2
