"""The loop: against the slow reference, and what may and may not change its bytes."""

import dataclasses
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from decode.tiny_models import (
    METHODS,
    VOCAB,
    cast_to,
    config_of,
    decode_part,
    further_models,
    general,
    llama,
    random_model,
    rule_of,
    summands,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from cdgen.decode import models, reference, sampling
from cdgen.decode.engine import NO_TOKEN, Engine, Rows
from cdgen.decode.models import GeneralModel, RecomputeModel
from cdgen.errors import BuildError, UsageError

PREFIXES, COMPLETIONS, PREFIX_TOKENS, NEW_TOKENS = 4, 3, 5, 16
SCORE_ERROR = 1e-4
"""Nats by which scores of a float32 model may differ between a cached and a full forward."""

Uniforms = npt.NDArray[np.float64]


def prefixes(count: int = PREFIXES, *, seed: int = 0) -> npt.NDArray[np.int64]:
    return np.random.default_rng(seed).integers(0, VOCAB, (count, PREFIX_TOKENS))


def keyed_uniforms(
    count: int = PREFIXES, completions: int = COMPLETIONS, new_tokens: int = NEW_TOKENS
) -> Uniforms:
    keys = [sampling.rng_key(7, f"p{p}", c) for p in range(count) for c in range(completions)]
    return np.stack([sampling.uniforms(key, new_tokens) for key in keys])


def engine_of(new_tokens: int = NEW_TOKENS, eos_id: int | None = None, **decode: Any) -> Engine:
    """Expert and amateur are tiny Llamas; the amateur is flatter, as an early checkpoint is."""
    temperature = decode.pop("amateur_temperature", 1.0)
    return Engine(
        general(llama(1)),
        general(llama(2, sharpness=3.0)),
        decode_part(**decode),
        further=[general(model) for model in further_models(decode)],
        amateur_temperature=temperature,
        new_tokens=new_tokens,
        stop_at_eos=eos_id is not None,
        eos_id=eos_id,
    )


def assert_same(got: Rows, want: Rows, rows: Any = slice(None)) -> None:
    """`got` is rows `rows` of `want`, bit for bit."""
    for field in dataclasses.fields(Rows):
        assert np.array_equal(getattr(got, field.name), getattr(want, field.name)[rows]), field.name


def assert_close(got: Rows, want: Rows) -> None:
    """The same tokens and heads; log-probabilities within the error of another order of sums."""
    assert np.array_equal(got.ids_BT, want.ids_BT)
    assert np.array_equal(got.head_size_BT, want.head_size_BT)
    np.testing.assert_allclose(got.logp_expert_BT, want.logp_expert_BT, rtol=0, atol=SCORE_ERROR)
    np.testing.assert_allclose(got.logp_amateur_BT, want.logp_amateur_BT, rtol=0, atol=SCORE_ERROR)


def replayed(out: Rows, prefix_PT: npt.NDArray[np.int64], **decode: Any) -> reference.Replay:
    completions = len(out.ids_BT) // len(prefix_PT)
    ids_BT = np.concatenate([prefix_PT.repeat(completions, axis=0), out.ids_BT], axis=1)
    return reference.replay(
        llama(1),
        llama(2, sharpness=3.0),
        ids_BT,
        prefix_tokens=PREFIX_TOKENS,
        rule=rule_of(**decode),
        further=further_models(decode),
    )


# ------------------------------------------------------------------ against the reference


@pytest.mark.parametrize("name", METHODS)
def test_equals_the_slow_reference_teacher_forced(name: str) -> None:
    """A token may differ only where its uniform lies within the score error of a CDF boundary.

    None does here: each uniform lies in its token's interval, widened by the error that a score error
    of 1e-4 nats can cause.
    """
    uniforms_BT = keyed_uniforms()
    out = engine_of(**METHODS[name]).decode(prefixes(), uniforms_BT)

    replay = replayed(out, prefixes(), **METHODS[name])

    token_BT = torch.from_numpy(out.ids_BT).long()
    begin, end = reference.cdf_interval(replay.score_BTV, token_BT)
    uniform_BT = torch.from_numpy(uniforms_BT)
    assert (uniform_BT >= begin - SCORE_ERROR).all() and (uniform_BT < end + SCORE_ERROR).all()
    assert (end > begin).all()


@pytest.mark.parametrize(
    "name", ["contrastive", "paper-exact", "top-p", "sample", "tail", "experts", "all-at-once"]
)
def test_equals_the_slow_reference_running_free(name: str) -> None:
    """Token by token in Python floats, without cache or batch: the same rows."""
    uniforms_BT = keyed_uniforms(2, 2, 10)
    rule = rule_of(**METHODS[name])

    got = engine_of(10, **METHODS[name]).decode(prefixes(2), uniforms_BT)

    want = reference.decode_rows(
        llama(1),
        llama(2, sharpness=3.0),
        prefixes(2),
        uniforms_BT,
        rule,
        further=further_models(METHODS[name]),
    )
    assert np.array_equal(got.ids_BT, want)


def test_every_token_lies_in_the_expert_s_head() -> None:
    """Teacher-forced, float32; and what is recorded is what the full forward says."""
    out = engine_of().decode(prefixes(), keyed_uniforms())

    replay = replayed(out, prefixes())

    index = torch.from_numpy(out.ids_BT).long().unsqueeze(-1)
    assert replay.head_BTV.gather(-1, index).all()
    assert np.array_equal(replay.head_BTV.sum(-1).numpy(), out.head_size_BT)
    assert replay.logp_amateur_BTV is not None
    for logp_BTV, got in (
        (replay.logp_expert_BTV, out.logp_expert_BT),
        (replay.logp_amateur_BTV, out.logp_amateur_BT),
    ):
        want = logp_BTV.gather(-1, index).squeeze(-1).numpy()
        np.testing.assert_allclose(got, want, rtol=0, atol=SCORE_ERROR)


@pytest.mark.parametrize(
    "name",
    [
        "contrastive",
        "paper-exact",
        "head-only",
        "sample",
        "top-p",
        "tail",
        "bigrams-once",
        "experts",
    ],
)
def test_sampled_tokens_follow_the_reference_distribution(name: str) -> None:
    """Randomised probability integral transform over 6,000 tokens of peaked heads.

    Draw a second uniform inside each token's interval of the reference CDF: if tokens follow the
    reference, these are uniform. Kolmogorov-Smirnov at fixed seeds, limit 1.63 / sqrt(n) (1 %).
    The engine's own uniforms are not used: this tests the distribution, not the inversion.
    """
    uniforms_BT = keyed_uniforms(50, 4, 30)
    prefix_PT = prefixes(50, seed=3)
    out = engine_of(30, **METHODS[name]).decode(prefix_PT, uniforms_BT)
    replay = replayed(out, prefix_PT, **METHODS[name])

    begin, end = reference.cdf_interval(replay.score_BTV, torch.from_numpy(out.ids_BT).long())

    inside = np.random.default_rng(5).random(begin.shape)
    transform = np.sort((begin.numpy() + inside * (end - begin).numpy()).ravel())
    grid = np.arange(1, len(transform) + 1) / len(transform)
    assert np.abs(transform - grid).max() < 1.63 / np.sqrt(len(transform))
    assert 2 < out.head_size_BT.mean() < 20, "heads as of a trained model"


def test_the_first_token_follows_the_reference_distribution() -> None:
    """Chi-square of 4,000 first tokens of one prefix against the reference's probabilities."""
    rule = rule_of(alpha=0.02)
    uniforms_BT = keyed_uniforms(1, 4000, 1)

    out = engine_of(1, alpha=0.02).decode(prefixes(1), uniforms_BT)

    replay = reference.replay(
        llama(1),
        llama(2, sharpness=3.0),
        np.concatenate([prefixes(1), out.ids_BT[:1]], axis=1),
        prefix_tokens=PREFIX_TOKENS,
        rule=rule,
    )
    p_V = replay.score_BTV[0, 0].double().softmax(-1).numpy()
    count_V = np.bincount(out.ids_BT[:, 0], minlength=VOCAB)
    drawn = p_V > 0
    assert not count_V[~drawn].any()
    expected = 4000 * p_V[drawn]
    chi, freedom = ((count_V[drawn] - expected) ** 2 / expected).sum(), drawn.sum() - 1
    assert freedom > 3
    assert chi < freedom + 4 * np.sqrt(2 * freedom)


# ------------------------------------------------------------------ what may not change a byte


def test_the_completions_of_one_prefix_differ() -> None:
    """Clones are what a key without the completion's number would give."""
    out = engine_of().decode(prefixes(), keyed_uniforms())

    for prefix in range(PREFIXES):
        rows = out.ids_BT[prefix * COMPLETIONS : (prefix + 1) * COMPLETIONS]
        assert len({tuple(row) for row in rows.tolist()}) == COMPLETIONS


def test_two_runs_and_a_reused_engine_give_the_same_bytes() -> None:
    """Another batch between them, of the same geometry and of another one, leaves no trace."""
    engine = engine_of()
    first = engine.decode(prefixes(), keyed_uniforms())

    engine.decode(prefixes(seed=8), keyed_uniforms()[::-1])
    reused = engine.decode(prefixes(), keyed_uniforms())
    engine.decode(prefixes(2), keyed_uniforms(2))
    resized = engine.decode(prefixes(), keyed_uniforms())
    fresh = engine_of().decode(prefixes(), keyed_uniforms())

    for again in (reused, resized, fresh):
        assert_same(again, first)


def test_results_do_not_alias_the_engine_s_memory() -> None:
    """A batch that is still being written to disk survives the next one."""
    engine = engine_of()
    out = engine.decode(prefixes(), keyed_uniforms())
    kept = out.ids_BT.copy()

    engine.decode(prefixes(seed=8), keyed_uniforms()[::-1])

    assert np.array_equal(out.ids_BT, kept)


@pytest.mark.parametrize("name", METHODS)
def test_permuting_prefixes_permutes_the_output_bitwise(name: str) -> None:
    """At a fixed geometry a row's bits depend on its prefix and uniforms alone (CPU)."""
    order = np.array([2, 0, 3, 1])
    rows = (order[:, None] * COMPLETIONS + np.arange(COMPLETIONS)).ravel()
    engine = engine_of(**METHODS[name])
    want = engine.decode(prefixes(), keyed_uniforms())

    got = engine.decode(prefixes()[order], keyed_uniforms()[rows])

    assert_same(got, want, rows)


def test_padding_a_batch_by_repetition_changes_no_row() -> None:
    """The last batch of a job is filled up with its own prefixes again."""
    engine = engine_of()
    other = prefixes()
    other[2:] = prefixes(seed=9)[2:]
    want = engine.decode(other, keyed_uniforms())
    uniforms_BT = keyed_uniforms()
    padded, padded_uniforms = other.copy(), uniforms_BT.copy()
    padded[2:] = other[:2]
    padded_uniforms[2 * COMPLETIONS :] = uniforms_BT[: 2 * COMPLETIONS]

    got = engine.decode(padded, padded_uniforms)

    real = slice(0, 2 * COMPLETIONS)
    for field in dataclasses.fields(Rows):
        assert np.array_equal(getattr(got, field.name)[real], getattr(want, field.name)[real])


@pytest.mark.parametrize("name", ["contrastive", "sample-trigrams-once", "experts"])
def test_stop_at_eos_changes_no_other_row(name: str) -> None:
    """Rows are cut after their first end-of-text token; all that is kept is as without stopping."""
    plain = engine_of(**METHODS[name]).decode(prefixes(), keyed_uniforms())
    eos_id = int(np.bincount(plain.ids_BT.ravel()).argmax())

    cut = engine_of(eos_id=eos_id, **METHODS[name]).decode(prefixes(), keyed_uniforms())

    assert 1 <= cut.length_B.min() < NEW_TOKENS and cut.length_B.max() == NEW_TOKENS
    for row, length in enumerate(cut.length_B):
        assert eos_id not in cut.ids_BT[row, : length - 1]
        assert length == NEW_TOKENS or cut.ids_BT[row, length - 1] == eos_id
        assert (cut.ids_BT[row, length:] == NO_TOKEN).all()
        assert np.array_equal(cut.ids_BT[row, :length], plain.ids_BT[row, :length])
        assert np.array_equal(cut.logp_expert_BT[row, :length], plain.logp_expert_BT[row, :length])
        assert not cut.logp_expert_BT[row, length:].any()
        assert not cut.head_size_BT[row, length:].any()


def test_the_loop_ends_early_when_all_rows_have_ended() -> None:
    """With a vocabulary's every head of one token: after the first look, not after 64 steps."""
    prefix_PT = prefixes(1)
    first = engine_of(1, method="sample", top_k=1).decode(prefix_PT, keyed_uniforms(1, 2, 1))
    seen: list[int] = []

    out = engine_of(40, int(first.ids_BT[0, 0]), method="sample", top_k=1).decode(
        prefix_PT, keyed_uniforms(1, 2, 40), on_step=seen.append
    )

    assert seen == [2]
    assert out.length_B.tolist() == [1, 1]
    assert out.ids_BT.shape == (2, 40) and (out.ids_BT[:, 1:] == NO_TOKEN).all()


def test_progress_counts_tokens() -> None:
    seen: list[int] = []

    engine_of().decode(prefixes(), keyed_uniforms(), on_step=seen.append)

    rows = PREFIXES * COMPLETIONS
    assert seen == [rows * step for step in range(1, NEW_TOKENS + 1)]


# ------------------------------------------------------------------ dtypes and kinds of models


def test_bfloat16_weights_with_a_float32_cache_run_and_repeat() -> None:
    """The CPU's fast setting: same bytes twice, tokens in the vocabulary."""

    def run() -> Rows:
        pair = [
            GeneralModel(cast_to(llama(seed), torch.bfloat16), cache_dtype=torch.float32)
            for seed in (1, 2)
        ]
        engine = Engine(pair[0], pair[1], decode_part(), new_tokens=NEW_TOKENS)
        return engine.decode(prefixes(), keyed_uniforms())

    first = run()

    assert_same(run(), first)
    assert ((first.ids_BT >= 0) & (first.ids_BT < VOCAB)).all()


def test_the_cached_path_and_the_recomputing_path_draw_the_same_tokens() -> None:
    """The interface hides which one runs."""
    slow = Engine(
        RecomputeModel(llama(1)),
        RecomputeModel(llama(2, sharpness=3.0)),
        decode_part(),
        new_tokens=NEW_TOKENS,
    )

    got = slow.decode(prefixes(), keyed_uniforms())

    want = engine_of().decode(prefixes(), keyed_uniforms())
    assert np.array_equal(got.ids_BT, want.ids_BT)


@pytest.mark.parametrize("method", ["head_only", "sample"])
def test_methods_without_contrast_need_no_amateur(method: str) -> None:
    """Its log-probabilities are then 0, and the tokens are those drawn beside an amateur."""
    alone = Engine(general(llama(1)), None, decode_part(method=method), new_tokens=NEW_TOKENS)

    out = alone.decode(prefixes(), keyed_uniforms())

    assert not out.logp_amateur_BT.any()
    beside = engine_of(method=method).decode(prefixes(), keyed_uniforms())
    assert np.array_equal(out.ids_BT, beside.ids_BT) and beside.logp_amateur_BT.any()


def test_a_saved_pair_decodes_as_the_pair_in_memory(tmp_path: Path) -> None:
    """Through safetensors and `open_model`."""
    for name, seed, sharpness in (("expert", 1, 6.0), ("amateur", 2, 3.0)):
        llama(seed, sharpness=sharpness).save_pretrained(tmp_path / name)
    expert, amateur = (
        models.open_model(tmp_path / name, weights_dtype="float32", cache_dtype="float32")
        for name in ("expert", "amateur")
    )

    got = Engine(expert, amateur, decode_part(), new_tokens=NEW_TOKENS).decode(
        prefixes(), keyed_uniforms()
    )

    assert_close(got, engine_of().decode(prefixes(), keyed_uniforms()))


# ------------------------------------------------------------------ further models, bans, vocabularies


def test_no_row_repeats_an_n_gram() -> None:
    """Prefix and completion together; without the ban some do."""

    def repeated(out: Rows) -> int:
        ids_BL = np.concatenate([prefixes().repeat(COMPLETIONS, axis=0), out.ids_BT], axis=1)
        bigrams = [list(pairwise(row)) for row in ids_BL.tolist()]
        return sum(len(row) - len(set(row)) for row in bigrams)

    flat: dict[str, Any] = {"alpha": 0.5, "lambda": 0.0}
    assert repeated(engine_of(**flat).decode(prefixes(), keyed_uniforms())) > 0
    assert repeated(engine_of(no_repeat_ngram=2, **flat).decode(prefixes(), keyed_uniforms())) == 0


def test_rows_that_could_exhaust_the_vocabulary_are_refused() -> None:
    engine = Engine(
        general(llama(1)),
        None,
        decode_part(method="sample", no_repeat_ngram=1),
        new_tokens=59,
        vocab_size=60,
    )

    with pytest.raises(UsageError, match=r"found 5 \+ 59 tokens and 60 entries"):
        engine.decode(prefixes(), keyed_uniforms(new_tokens=59))


def test_a_third_model_has_its_own_size_and_cache_and_counts() -> None:
    """Equal twins with opposite weights cancel; another third model changes tokens."""
    big = random_model(config_of("qwen3"), seed=9, sharpness=6.0)

    def run(*models: Any, **weights: Any) -> Rows:
        engine = Engine(
            general(llama(1)),
            general(llama(2, sharpness=3.0)),
            decode_part(**weights),
            new_tokens=NEW_TOKENS,
            further=[general(model) for model in models],
        )
        return engine.decode(prefixes(), keyed_uniforms())

    plain = run(**summands(1.0, -1.0))

    assert np.array_equal(run().ids_BT, plain.ids_BT)
    assert np.array_equal(run(big, big, **summands(1.0, -1.0, 2.0, -2.0)).ids_BT, plain.ids_BT)
    assert not np.array_equal(run(big, **summands(1.0, -1.0, 2.0)).ids_BT, plain.ids_BT)


@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_any_combination_equals_the_reference_teacher_forced(data: st.DataObject) -> None:
    """Weights, head, temperatures, truncation, outside and bans, drawn together."""
    decode: dict[str, Any] = {
        **data.draw(
            st.sampled_from(
                [{}, {"method": "head_only"}, summands(1.3, -0.6, 0.4), {"lambda": 0.3}]
            )
        ),
        "alpha": data.draw(st.sampled_from([0.01, 0.1, 0.5])),
        "temperature": data.draw(st.sampled_from([0.7, 1.0, 1.4])),
        "score_temperature": data.draw(st.sampled_from([0.7, 1.0])),
        "top_k": data.draw(st.sampled_from([None, 3, 20])),
        "top_p": data.draw(st.sampled_from([None, 0.5, 0.95])),
        "no_repeat_ngram": data.draw(st.sampled_from([None, 1, 2, 4])),
        "outside_head": data.draw(st.sampled_from(["-inf", "tail", -2.0])),
    }
    uniforms_BT = keyed_uniforms(2, 2, 10)
    out = engine_of(10, **decode).decode(prefixes(2), uniforms_BT)

    replay = replayed(out, prefixes(2), **decode)

    begin, end = reference.cdf_interval(replay.score_BTV, torch.from_numpy(out.ids_BT).long())
    uniform_BT = torch.from_numpy(uniforms_BT)
    assert (uniform_BT >= begin - SCORE_ERROR).all() and (uniform_BT < end + SCORE_ERROR).all()
    assert (end > begin).all()


def padded(seed: int, entries: int, **shape: Any) -> Any:
    """A tiny Llama whose embeddings have `entries` rows, the first VOCAB of them as in `llama(seed)`."""
    model = llama(seed, **shape)
    wide = random_model(
        type(model.config)(**(model.config.to_dict() | {"vocab_size": entries})), seed=3
    )
    state = model.state_dict()
    with torch.no_grad():
        for name, weight in wide.state_dict().items():
            small = state[name]
            weight.fill_(9.0) if weight.shape != small.shape else None
            weight[tuple(slice(size) for size in small.shape)] = small
    return wide


@pytest.mark.parametrize("name", ["contrastive", "sample", "tail", "bigrams-once"])
def test_padding_of_the_embeddings_is_cut_off(name: str) -> None:
    """Models padded to different sizes draw what unpadded ones draw; their products' shapes round differently."""
    engine = Engine(
        general(padded(1, VOCAB + 5)),
        general(padded(2, VOCAB + 61, sharpness=3.0)),
        decode_part(**METHODS[name]),
        new_tokens=NEW_TOKENS,
        vocab_size=VOCAB,
    )

    got = engine.decode(prefixes(), keyed_uniforms())

    assert_close(got, engine_of(**METHODS[name]).decode(prefixes(), keyed_uniforms()))


def test_bfloat16_scores_stay_within_a_bound_and_tokens_follow_them() -> None:
    """Three models, bans, bfloat16 weights and cache, against the same weights without a cache.

    Log-probabilities per step differ by the cache's rounding: under 0.1 nats here, where logits reach 10. Each
    token lies in its interval of the reference, widened by what such an error can move a CDF by.
    """
    bound_nats = 0.1
    decode = METHODS["experts"] | {"no_repeat_ngram": 2}

    def half(model: Any) -> Any:
        return cast_to(model, torch.bfloat16)

    expert, amateur = half(llama(1)), half(llama(2, sharpness=3.0))
    further = [half(model) for model in further_models(decode)]
    engine = Engine(
        general(expert, torch.bfloat16),
        general(amateur, torch.bfloat16),
        decode_part(**decode),
        new_tokens=NEW_TOKENS,
        further=[general(model, torch.bfloat16) for model in further],
    )
    uniforms_BT = keyed_uniforms()
    out = engine.decode(prefixes(), uniforms_BT)

    replay = reference.replay(
        expert,
        amateur,
        np.concatenate([prefixes().repeat(COMPLETIONS, axis=0), out.ids_BT], axis=1),
        prefix_tokens=PREFIX_TOKENS,
        rule=rule_of(**decode),
        further=further,
    )

    token_BT = torch.from_numpy(out.ids_BT).long()
    for logp_BTV, got in (
        (replay.logp_expert_BTV, out.logp_expert_BT),
        (replay.logp_amateur_BTV, out.logp_amateur_BT),
    ):
        assert logp_BTV is not None
        want = logp_BTV.gather(-1, token_BT.unsqueeze(-1)).squeeze(-1).numpy()
        assert np.abs(got - want).max() < bound_nats
    begin, end = reference.cdf_interval(replay.score_BTV, token_BT)
    uniform_BT = torch.from_numpy(uniforms_BT)
    weight = 1.0 + 0.7 + 0.7
    outside = (uniform_BT < begin - weight * bound_nats) | (uniform_BT > end + weight * bound_nats)
    assert not outside.any()


# ------------------------------------------------------------------ what is refused


def test_contrastive_without_an_amateur_is_refused() -> None:
    with pytest.raises(UsageError, match="contrastive needs an amateur"):
        Engine(general(llama(1)), None, decode_part(), new_tokens=4)


def test_stopping_without_an_end_of_text_token_is_refused() -> None:
    with pytest.raises(UsageError, match="stop_at_eos needs a tokenizer with an end-of-text token"):
        Engine(
            general(llama(1)), None, decode_part(method="sample"), new_tokens=4, stop_at_eos=True
        )


def test_a_sequence_longer_than_the_model_is_refused() -> None:
    engine = engine_of(60)

    with pytest.raises(UsageError, match=r"expert's 64 positions, found 5 \+ 60"):
        engine.decode(prefixes(), keyed_uniforms(new_tokens=60))


@pytest.mark.parametrize(
    ("uniforms_BT", "message"),
    [
        (np.zeros((PREFIXES * COMPLETIONS, 3)), "16 uniforms per row are needed, found 3"),
        (
            np.zeros((PREFIXES + 1, NEW_TOKENS)),
            "rows must be a multiple of prefixes, found 5 and 4",
        ),
        (np.zeros((PREFIXES, NEW_TOKENS), np.float32), "must be float64, found float32"),
    ],
)
def test_shapes_that_do_not_fit_are_named(uniforms_BT: Uniforms, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        engine_of().decode(prefixes(), uniforms_BT)


def test_a_model_that_gives_nan_is_named() -> None:
    """Overflowed weights must not become a corpus of one token."""
    broken = llama(1)
    broken.get_output_embeddings().weight.data[3, 0] = float("nan")
    engine = Engine(general(llama(2)), general(broken), decode_part(), new_tokens=3)

    with pytest.raises(BuildError, match="the amateur's output is not a number"):
        engine.decode(prefixes(), keyed_uniforms(new_tokens=3))


def test_two_engines_do_not_touch_the_global_generator() -> None:
    """The randomness is an argument: torch's and numpy's global states stay as they are."""
    before = torch.get_rng_state()
    state = np.random.get_state(legacy=False)  # noqa: NPY002

    engine_of().decode(prefixes(), keyed_uniforms())

    assert torch.equal(before, torch.get_rng_state())
    assert str(state) == str(np.random.get_state(legacy=False))  # noqa: NPY002


def test_a_sum_over_the_amateur_needs_one() -> None:
    with pytest.raises(UsageError, match="weighted_sum needs an amateur"):
        Engine(general(llama(1)), None, decode_part(**summands(1.0, -1.0)), new_tokens=4)


def test_a_missing_further_model_is_refused() -> None:
    with pytest.raises(UsageError, match="asks for 1 further models, found 0"):
        Engine(general(llama(1)), None, decode_part(**summands(1.0, 0.0, 1.0)), new_tokens=4)


def test_different_vocabularies_are_refused() -> None:
    """Without a tokenizer's size nothing says what is padding; with one, no model may score less."""
    pair = general(llama(1)), general(padded(2, VOCAB + 3))

    with pytest.raises(
        UsageError, match=r"share a vocabulary, found 67 \(expert\) and 70 \(amateur"
    ):
        Engine(*pair, decode_part(), new_tokens=4)
    with pytest.raises(UsageError, match="the tokenizer has 69 entries and the expert 67"):
        Engine(*pair, decode_part(), new_tokens=4, vocab_size=69)


def test_a_further_model_of_nan_is_named() -> None:
    broken = llama(5)
    with torch.no_grad():
        broken.get_output_embeddings().weight[3] = torch.nan
    engine = Engine(
        general(llama(1)),
        None,
        decode_part(**summands(1.0, 0.0, 1.0)),
        new_tokens=NEW_TOKENS,
        further=[general(broken)],
    )

    with pytest.raises(BuildError, match="further model 1's output is not a number"):
        engine.decode(prefixes(), keyed_uniforms())
