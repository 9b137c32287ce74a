"""Models side by side: the same rows, in the same order, and errors that are not lost."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from decode.tiny_models import VOCAB, decode_part, general, llama

from cdgen.decode import sampling
from cdgen.decode.abreast import Abreast, threads_each
from cdgen.decode.engine import Engine, Rows
from cdgen.decode.llama import LlamaModel
from cdgen.decode.models import LanguageModel

UNIFORMS = np.stack([sampling.uniforms(sampling.rng_key(3, "p", row), 12) for row in range(9)])
PREFIXES = np.random.default_rng(0).integers(0, VOCAB, (3, 5))


@pytest.fixture
def two_threads() -> Iterator[None]:
    """As many as a pair of models needs; the session has one."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def fast(seed: int) -> LlamaModel:
    return LlamaModel(llama(seed), cache_dtype=torch.float32)


def decoded(expert: LanguageModel, amateur: LanguageModel, **changes: Any) -> Rows:
    return Engine(expert, amateur, decode_part(**changes), new_tokens=12).decode(PREFIXES, UNIFORMS)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("changes", [{}, {"outside_head": "tail"}, {"no_repeat_ngram": 2}])
def test_rows_are_those_of_models_one_after_the_other(
    changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nine rows in two shares; tokens equal, log-probabilities within a float32 sum's error."""
    got = decoded(fast(1), fast(2), **changes)
    again = decoded(fast(1), fast(2), **changes)
    monkeypatch.setattr("cdgen.decode.engine.threads_each", lambda _models: 0)
    want = decoded(fast(1), fast(2), **changes)

    assert np.array_equal(got.ids_BT, want.ids_BT)
    assert np.array_equal(got.head_size_BT, want.head_size_BT)
    np.testing.assert_allclose(got.logp_expert_BT, want.logp_expert_BT, rtol=0, atol=1e-5)
    np.testing.assert_allclose(got.logp_amateur_BT, want.logp_amateur_BT, rtol=0, atol=1e-5)
    for field in dataclasses.fields(Rows):
        assert np.array_equal(getattr(again, field.name), getattr(got, field.name)), field.name


@pytest.mark.usefixtures("two_threads")
def test_side_by_side_only_what_costs_the_same_and_waits_for_nothing() -> None:
    """An early exit waits for its expert; the general path is transformers' own."""
    expert = fast(1)

    assert threads_each([expert, fast(2)]) == 1
    assert threads_each([expert, fast(2), fast(3)]) == 0
    assert threads_each([expert]) == 0
    assert threads_each([expert, expert.exit_at(1)]) == 0
    assert threads_each([expert, general(llama(2))]) == 0
    assert threads_each([expert, LlamaModel(_smaller(), cache_dtype=torch.float32)]) == 0
    torch.set_num_threads(1)
    assert threads_each([expert, fast(2)]) == 0


def _smaller() -> Any:
    model = llama(2)
    del model.model.layers[-1]
    model.config.num_hidden_layers -= 1
    return model


@pytest.mark.usefixtures("two_threads")
def test_the_path_says_that_models_run_side_by_side() -> None:
    pair = Engine(fast(1), fast(2), decode_part(), new_tokens=12)

    assert "side by side with 1 of the threads each" in pair.path
    torch.set_num_threads(1)
    assert "side by side" not in pair.path


@pytest.mark.usefixtures("two_threads")
def test_every_thread_has_its_share_of_torchs_and_the_caller_keeps_its_own() -> None:
    both = Abreast(2, 1)

    assert both.run([torch.get_num_threads] * 2) == [1, 1]
    assert torch.get_num_threads() == 2


def test_results_keep_their_order_and_the_first_error_is_raised() -> None:
    both = Abreast(2, 1)

    assert both.run([lambda: "expert", lambda: "amateur"]) == ["expert", "amateur"]
    with pytest.raises(ZeroDivisionError):
        both.run([lambda: 1.0, lambda: 1 / 0])
    assert both.run([lambda: "again"]) == ["again"]


@pytest.mark.parametrize("rows", [1, 2, 7, 8])
def test_shares_cover_every_row_once(rows: int) -> None:
    shares = Abreast(3, 1).shares(rows)

    assert [row for share in shares for row in range(rows)[share]] == list(range(rows))
    assert len(shares) == min(rows, 3)
