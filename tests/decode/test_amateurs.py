"""Every kind of amateur against a slow reference, and what may not change its bytes."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from decode.slow_amateurs import (
    COMPLETIONS,
    NEW_TOKENS,
    full,
    keyed_uniforms,
    prefixes,
    slow_logits,
    text,
)
from decode.tiny_models import VOCAB, decode_part, general, llama

from cdgen.decode import contrast, ngram, reference
from cdgen.decode.amateurs.opening import open_pair
from cdgen.decode.engine import Engine, Rows
from cdgen.decode.models import LanguageModel
from cdgen.recipes.schema import (
    Amateur,
    CheckpointAmateur,
    DropoutAmateur,
    EarlyExitAmateur,
    ModelAmateur,
    NgramAmateur,
    QuantizedAmateur,
    TemperatureAmateur,
    TruncatedContextAmateur,
)

SCORE_ERROR = 1e-4

KINDS: dict[str, Amateur] = {
    "checkpoint": CheckpointAmateur(kind="checkpoint", checkpoint=4),
    "model": ModelAmateur(kind="model", path=Path("given")),
    "dropout": DropoutAmateur(kind="dropout", attention=0.5),
    "early_exit": EarlyExitAmateur(kind="early_exit", layer=1),
    "quantized-8": QuantizedAmateur(kind="quantized", bits=8),
    "quantized-4": QuantizedAmateur(kind="quantized", bits=4),
    "last-tokens": TruncatedContextAmateur(kind="truncated_context", tokens=4),
    "late-prefix": TruncatedContextAmateur(kind="truncated_context", prefix_tokens=1),
    "temperature": TemperatureAmateur(kind="temperature", temperature=2.0),
    "ngram": NgramAmateur(kind="ngram", order=3),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An expert, an amateur of its own weights, and n-gram counts of a text of the same vocabulary."""
    home = tmp_path_factory.mktemp("models")
    llama(1).save_pretrained(home / "expert")
    llama(2, sharpness=3.0).save_pretrained(home / "amateur")
    ngram.save(ngram.count(text(), 3), home / "ngram")
    return {name: home / name for name in ("expert", "amateur", "ngram")}


def pair(
    kind: str, folders: dict[str, Path], dtype: str = "float32"
) -> tuple[LanguageModel, LanguageModel]:
    expert, amateur = open_pair(
        KINDS[kind],
        expert=folders["expert"],
        amateur=folders["ngram" if kind == "ngram" else "amateur"],
        weights_dtype=dtype,
        cache_dtype=dtype,
        devices=("cpu", "cpu"),
    )
    assert amateur is not None
    return expert, amateur


def engine_of(kind: str, folders: dict[str, Path], dtype: str = "float32", **decode: Any) -> Engine:
    spec = KINDS[kind]
    assert spec.kind != "none"
    return Engine(
        *pair(kind, folders, dtype),
        decode_part(**decode),
        amateur_temperature=spec.temperature,
        new_tokens=NEW_TOKENS,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_equals_a_slow_reference_teacher_forced(kind: str, folders: dict[str, Path]) -> None:
    """Its log-probabilities are those of the reference; every uniform lies in its token's interval of the CDF."""
    spec, uniforms_BT = KINDS[kind], keyed_uniforms()
    assert spec.kind != "none"
    engine = engine_of(kind, folders)

    out = engine.decode(prefixes(), uniforms_BT)

    ids_BT = torch.from_numpy(
        np.concatenate([prefixes().repeat(COMPLETIONS, 0), out.ids_BT], axis=1).astype(np.int64)
    )
    amateur_BTV = slow_logits(kind, ids_BT).float()
    index = torch.from_numpy(out.ids_BT).long().unsqueeze(-1)
    want = (amateur_BTV / spec.temperature).log_softmax(-1).gather(-1, index).squeeze(-1)
    np.testing.assert_allclose(out.logp_amateur_BT, want.numpy(), atol=SCORE_ERROR)
    assert (engine_of(kind, folders).decode(prefixes(), uniforms_BT).ids_BT == out.ids_BT).all()

    score_BTV = contrast.scores(full(llama(1), ids_BT), amateur_BTV, engine.rule)
    begin, end = reference.cdf_interval(score_BTV, index.squeeze(-1))
    uniform_BT = torch.from_numpy(uniforms_BT)
    assert (uniform_BT >= begin - SCORE_ERROR).all() and (uniform_BT < end + SCORE_ERROR).all()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
def test_order_of_rows_and_batches_before_change_no_byte(
    kind: str, dtype: str, folders: dict[str, Path]
) -> None:
    """A resumed or second worker decodes other batches first, with other neighbours: the same rows."""
    prefix_PT, uniforms_BT = prefixes(), keyed_uniforms()
    want = engine_of(kind, folders, dtype).decode(prefix_PT, uniforms_BT)
    order_P = np.array([2, 0, 3, 1])
    order_B = (order_P[:, None] * COMPLETIONS + np.arange(COMPLETIONS)).ravel()

    used = engine_of(kind, folders, dtype)
    used.decode(prefix_PT[::-1].copy(), 1 - uniforms_BT - 2.0**-53)
    again = used.decode(prefix_PT, uniforms_BT)
    turned = used.decode(prefix_PT[order_P], uniforms_BT[order_B])

    for field in dataclasses.fields(Rows):
        assert np.array_equal(getattr(again, field.name), getattr(want, field.name)), field.name
        assert np.array_equal(getattr(turned, field.name), getattr(want, field.name)[order_B])


@pytest.mark.parametrize("kind", ["dropout", "quantized-8", "last-tokens", "late-prefix"])
def test_a_weakened_expert_is_another_model(kind: str, folders: dict[str, Path]) -> None:
    """What it says differs from what the expert says, and it runs in words that a report can print."""
    expert, amateur = pair(kind, folders)

    out = engine_of(kind, folders).decode(prefixes(), keyed_uniforms())

    assert np.abs(out.logp_expert_BT - out.logp_amateur_BT).mean() > 0.01
    assert amateur.path != expert.path or kind.startswith("quantized")
    assert amateur.vocab_size == VOCAB


def test_a_hotter_expert_is_head_only_at_another_temperature(folders: dict[str, Path]) -> None:
    """log softmax(g) - lambda log softmax(g / tau) = (1 - lambda / tau) g + a constant."""
    got = engine_of("temperature", folders, lambda_=0.5).decode(prefixes(), keyed_uniforms())

    hot = decode_part(method="head_only", score_temperature=1 / (1 - 0.5 / 2.0))
    plain = Engine(general(llama(1)), None, hot, new_tokens=NEW_TOKENS)
    assert np.array_equal(got.ids_BT, plain.decode(prefixes(), keyed_uniforms()).ids_BT)


# ---- devices ----


def test_expert_and_amateur_may_lie_on_different_devices(folders: dict[str, Path]) -> None:
    """The recompute path too: tokens go to each model's device and logits come back to the expert's."""
    if not torch.cuda.is_available():
        pytest.skip("one device here")
    spec = KINDS["model"]
    options: dict[str, Any] = {
        "expert": folders["expert"],
        "amateur": folders["amateur"],
        "weights_dtype": "float32",
        "cache_dtype": "float32",
    }
    engine = Engine(
        *open_pair(spec, **options, devices=("cuda", "cpu")), decode_part(), new_tokens=NEW_TOKENS
    )

    out = engine.decode(prefixes(), keyed_uniforms())

    want = engine_of("model", folders).decode(prefixes(), keyed_uniforms())
    assert (out.ids_BT == want.ids_BT).mean() > 0.9
    assert engine.amateur is not None and engine.amateur.device.type == "cpu"
