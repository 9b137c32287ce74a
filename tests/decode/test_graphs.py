"""The loop whose steps can be replayed, run without a graph: the engine's rows, and nothing that the host must know."""

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from decode.tiny_models import METHODS, VOCAB, config_of, decode_part, llama, random_model, rule_of
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from cdgen.decode import graphs, reference
from cdgen.decode.attention import Geometry, Slots
from cdgen.decode.engine import Engine, Rows
from cdgen.decode.llama import LlamaModel

PREFIXES, COMPLETIONS, PREFIX_TOKENS, NEW_TOKENS = 3, 2, 5, 12
SCORE_ERROR = 1e-4

REPLAYED = [
    name for name, part in METHODS.items() if not {"no_repeat_ngram", "models"} & part.keys()
]
"""Rules whose draw needs no history, with the two models here."""


def engine_of(
    *, new_tokens: int = NEW_TOKENS, eos_id: int | None = None, early: bool = False, **decode: Any
) -> Engine:
    temperature = decode.pop("amateur_temperature", 1.0)
    expert = LlamaModel(llama(1), cache_dtype=torch.float32, paged=False)
    amateur = LlamaModel(llama(2, sharpness=3.0), cache_dtype=torch.float32, paged=False)
    return Engine(
        expert,
        expert.exit_at(1) if early else amateur,
        decode_part(**decode),
        amateur_temperature=temperature,
        new_tokens=new_tokens,
        stop_at_eos=eos_id is not None,
        eos_id=eos_id,
    )


def static(engine: Engine) -> Engine:
    """The same engine on the loop that a GPU replays."""
    assert all(graphs.static(model) for model in engine.models)
    engine.replays = True
    return engine


def prefixes(*, count: int = PREFIXES, seed: int = 0) -> npt.NDArray[np.int64]:
    return np.random.default_rng(seed).integers(0, VOCAB, (count, PREFIX_TOKENS))


def uniforms(rows: int = PREFIXES * COMPLETIONS, new_tokens: int = NEW_TOKENS) -> Any:
    return np.random.default_rng(9).random((rows, new_tokens))


def assert_same(got: Rows, want: Rows) -> None:
    for field in dataclasses.fields(Rows):
        assert np.array_equal(getattr(got, field.name), getattr(want, field.name)), field.name


class OnHost(graphs.Here):
    """The position read by the host: attention as the eager path computes it, bit for bit."""

    def attend(self, cache: Slots, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return cache.step(query, key, value, int(self.position_1))


# ------------------------------------------------------------------ the same rows


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("eos_id", [None, 3])
def test_the_loop_gives_the_engine_s_bits(
    monkeypatch: pytest.MonkeyPatch, early: bool, eos_id: int | None
) -> None:
    """With the same attention, every byte: uniforms, records, end-of-text, a second batch in the same memory."""
    monkeypatch.setattr(graphs, "Here", OnHost)
    plain, replayed = (engine_of(early=early, eos_id=eos_id) for _ in range(2))
    static(replayed)

    for seed in (0, 1):
        want = plain.decode(prefixes(seed=seed), uniforms())
        assert_same(replayed.decode(prefixes(seed=seed), uniforms()), want)


@pytest.mark.parametrize("name", REPLAYED)
def test_equals_the_slow_reference_teacher_forced(name: str) -> None:
    """Attention over masked slots: each uniform lies in its token's interval, widened by the score error."""
    uniforms_BT = uniforms()

    out = static(engine_of(**METHODS[name])).decode(prefixes(), uniforms_BT)

    ids_BT = np.concatenate([prefixes().repeat(COMPLETIONS, axis=0), out.ids_BT], axis=1)
    replay = reference.replay(
        llama(1),
        llama(2, sharpness=3.0),
        ids_BT,
        prefix_tokens=PREFIX_TOKENS,
        rule=rule_of(**METHODS[name]),
    )
    begin, end = reference.cdf_interval(replay.score_BTV, torch.from_numpy(out.ids_BT).long())
    uniform_BT = torch.from_numpy(uniforms_BT)
    assert (uniform_BT >= begin - SCORE_ERROR).all() and (uniform_BT < end + SCORE_ERROR).all()


def test_another_number_of_prefixes_takes_another_loop() -> None:
    """As many rows, but other caches: a graph that wrote into the old ones would go unnoticed."""
    engine = static(engine_of())
    uniforms_BT = uniforms()
    engine.decode(prefixes(), uniforms_BT)

    got = engine.decode(prefixes(count=6), uniforms_BT)

    want = engine_of().decode(prefixes(count=6), uniforms_BT)
    assert np.array_equal(got.ids_BT, want.ids_BT)


def test_steps_are_reported_and_end_when_all_rows_have_ended() -> None:
    engine = static(engine_of(new_tokens=40, eos_id=3, method="sample", temperature=50.0))
    uniforms_BT = np.full((6, 40), 3.5 / VOCAB)  # of a flat distribution: token 3
    uniforms_BT[:, 0] = 0.99
    seen: list[int] = []

    out = engine.decode(prefixes(), uniforms_BT, on_step=seen.append)

    assert (out.length_B > 1).all() and (out.length_B < graphs.CHECK_EVERY).all()
    assert seen == [6 * step for step in range(1, graphs.CHECK_EVERY + 2)]


# ------------------------------------------------------------------ attention over slots


@pytest.mark.parametrize("window", [None, 1, 4, 9])
@pytest.mark.parametrize("completions", [1, 3])
def test_masked_slots_are_the_slots_seen(completions: int, window: int | None) -> None:
    """Every position from the first after the prefix to the last that a row can hold."""
    geometry = Geometry(
        rows=2 * completions, prefixes=2, prefix_tokens=5, length=14, heads=4, kv_heads=2,
        head_size=8, dtype=torch.float32, device=torch.device("cpu"),
    )  # fmt: skip
    made = torch.Generator().manual_seed(0)
    caches = [Slots(geometry, window=window) for _ in range(2)]
    prefix = [torch.randn(2, 5, 2, 8, generator=made) for _ in range(2)]
    for cache in caches:
        cache.prefill(*prefix)

    for position in range(5, 14):
        shape = (geometry.rows, 4, 8)
        query, key, value = (torch.randn(shape, generator=made)[:, :n] for n in (4, 2, 2))
        want = caches[0].step(query, key, value, position)
        got = graphs.attend_masked(caches[1], query, key, value, torch.tensor([position]))
        torch.testing.assert_close(got, want, rtol=0, atol=1e-6)
    assert torch.equal(caches[0].own_keys, caches[1].own_keys)
    assert torch.equal(caches[0].own_values, caches[1].own_values)


# ------------------------------------------------------------------ nothing for the host to know


def _shape(value: Any) -> Any:
    return tuple(value.shape) if isinstance(value, Tensor) else value


class Launches(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's own
    """Every operation with the shapes of its tensors; fails where the host must wait for a value."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        assert name not in ("_local_scalar_dense", "nonzero", "masked_select", "unique_dim"), name
        self.seen.append(f"{name} {tree_map(_shape, args)}")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("early", [False, True])
def test_every_step_launches_the_same_and_waits_for_nothing(early: bool) -> None:
    """Same operations, shapes and numbers at every position: what a captured step must be."""
    engine = static(engine_of(early=early))
    engine.decode(prefixes(), uniforms())
    assert engine._memory is not None and engine._memory.loop is not None
    loop = engine._memory.loop
    launches = []
    with torch.inference_mode():
        loop._rewind(PREFIX_TOKENS)
        for _ in range(3):
            with Launches() as seen:
                loop._launch()
            launches.append(seen.seen)

    assert launches[0] == launches[1] == launches[2]
    assert len(launches[0]) > 50
    assert loop.position_1.tolist() == [PREFIX_TOKENS + 3]


def test_where_a_step_cannot_be_captured_the_rows_are_the_same() -> None:
    """As here, where torch has no GPU at all: it says so, and launches."""
    if torch.cuda.is_available():
        pytest.skip("this machine can capture")
    engine = static(engine_of())
    want = engine.decode(prefixes(), uniforms())
    assert engine._memory is not None and engine._memory.loop is not None
    engine._memory.loop.graph = True

    with pytest.warns(RuntimeWarning, match="launched one by one"):
        got = engine.decode(prefixes(), uniforms())

    assert_same(got, want)


def test_only_a_gpu_replays() -> None:
    """And only models whose step reads its position from the device."""
    engine = engine_of()

    assert not engine.replays and not engine.draws_fused
    assert "launched one by one; draw in torch" in engine.path
    paged = LlamaModel(llama(1), cache_dtype=torch.float32, paged=True)
    assert not graphs.static(paged) and graphs.static(engine.expert)


# ------------------------------------------------------------------ with the kernels


@pytest.mark.parametrize("architecture", ["llama", "mistral-window"])
def test_with_both_kernels_the_tokens_are_the_engine_s(architecture: str) -> None:
    """The very step that a GPU captures, Triton's interpreter in place of the GPU."""
    pytest.importorskip("triton", reason="torch for CUDA brings triton; its interpreter runs here")
    if torch.cuda.is_available():
        pytest.skip(
            "the interpreter is for machines without a GPU; benchmarks/gpu_check.py is for these"
        )

    def engine() -> Engine:
        models = [
            LlamaModel(
                random_model(config_of(architecture), seed=seed, sharpness=6.0 / seed),
                cache_dtype=torch.float32,
                paged=False,
            )
            for seed in (1, 2)
        ]
        return Engine(models[0], models[1], decode_part(), new_tokens=4)

    want = engine().decode(prefixes(count=1), uniforms(2, 4))
    fused = static(engine())
    fused.decode(prefixes(count=1), uniforms(2, 4))
    assert fused._memory is not None and fused._memory.loop is not None
    fused._memory.loop.here.fused = fused._memory.loop.draws_fused = True

    got = fused.decode(prefixes(count=1), uniforms(2, 4))

    assert np.array_equal(got.ids_BT, want.ids_BT)
    assert np.array_equal(got.head_size_BT, want.head_size_BT)
    np.testing.assert_allclose(got.logp_expert_BT, want.logp_expert_BT, rtol=0, atol=SCORE_ERROR)
    np.testing.assert_allclose(got.logp_amateur_BT, want.logp_amateur_BT, rtol=0, atol=SCORE_ERROR)
