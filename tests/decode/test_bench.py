"""The benchmark at its smallest size: every part runs, and what it compares with computes the same thing."""

import math

import pytest
import torch
from decode.tiny_models import rule_of

from cdgen.decode import contrast
from cdgen.decode.bench import peers
from cdgen.decode.bench.pairs import SIZES, Shape
from cdgen.decode.bench.run import PARTS, measure, run_part, table, with_ratios
from cdgen.errors import UsageError


@pytest.mark.parametrize(
    "part",
    [
        "reference loop",
        "generate(), dynamic cache",
        "generate(), static cache",
        "floor bf16 weights",
        "general path fp32",
        "bf16 weights, bf16 cache",
        "early exit fp32",
        "20x smaller fp32",
        "sample fp32",
    ],
)
def test_every_kind_of_part_runs(part: str) -> None:
    """In this process: tokens per second that fit the seconds, and peak memory."""
    assert part in PARTS

    found = run_part(part, "tiny", 1, 8)

    tokens = 8 * SIZES["tiny"].new_tokens
    assert found["tokens_per_s"] == pytest.approx(tokens / found["seconds"], rel=1e-6)
    assert found["peak_mb"] > 50


def test_the_reference_loop_scores_as_the_paper_s_rule_does() -> None:
    """What the peers compute over the whole vocabulary is outside_head -20, log_epsilon 1e-10."""
    generator = torch.Generator().manual_seed(1)
    expert_BV, amateur_BV = (torch.randn(5, 60, generator=generator) * 3 for _ in range(2))

    got = peers.contrast(expert_BV, amateur_BV)

    want = contrast.scores(expert_BV, amateur_BV, rule_of(outside_head=-20.0, log_epsilon=1e-10))
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-4)


def test_a_part_in_its_own_process_makes_a_table() -> None:
    """As `cdgen bench` runs it."""
    found = measure("tiny", parts=["fp32"], threads=1)

    text = table(found)
    assert "tiny: 8 rows, 20 + 12 tokens" in text
    assert f"{found['parts']['fp32']['tokens_per_s']:.0f}" in text
    assert "fast path" in found["parts"]["fp32"]["path"]


def test_ratios() -> None:
    """To the reference, to the floor of the same dtypes, to plain sampling; each only where it was measured."""

    def numbers(tokens_per_s: float) -> dict[str, float]:
        return {"tokens_per_s": tokens_per_s, "seconds": 100 / tokens_per_s}

    got = with_ratios(
        {
            "reference loop": numbers(10.0),
            "floor fp32": numbers(80.0),
            "fp32": numbers(40.0),
            "sample fp32": numbers(60.0),
            "early exit fp32": numbers(50.0),
            "bf16 weights": numbers(70.0),
        }
    )

    assert got["fp32"]["times_reference"] == 4 and got["fp32"]["share_of_floor"] == 0.5
    assert got["early exit fp32"]["cost_of_sampling"] == pytest.approx(1.2)
    assert "share_of_floor" not in got["bf16 weights"]
    assert "times_reference" not in got["floor fp32"]


@pytest.mark.parametrize("size", ["tiny", "quickstart", "cpu", "gpu"])
def test_the_small_amateur_is_about_twenty_times_smaller(size: str) -> None:
    """Embeddings aside, as the paper counts its small models."""

    def weights(shape: Shape) -> int:
        square = shape.hidden * (2 * shape.hidden + 2 * shape.kv_hidden + 3 * shape.ffn)
        return shape.layers * square

    ratio = weights(SIZES[size].shape) / weights(SIZES[size].small)
    assert 14 < ratio < 26 and math.isfinite(ratio)


def test_wrong_names_are_refused() -> None:
    """A size, a part, and a GPU that is not there."""
    with pytest.raises(UsageError, match="the size must be one of tiny"):
        measure("large")
    with pytest.raises(UsageError, match="no such part: nothing"):
        measure("tiny", parts=["nothing"])
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="needs a CUDA device"):
            measure("gpu")
