"""The n-gram model against the formula written out with dictionaries, and what a build needs of it."""

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cdgen.decode import ngram
from cdgen.decode.ngram import NgramModel
from cdgen.errors import BuildError

Sequence = tuple[int, ...]


class Slow:
    """Interpolated Kneser-Ney in dictionaries and Python floats, one token at a time."""

    def __init__(self, text: list[int], order: int, vocab: int) -> None:
        self.order, self.vocab = order, vocab
        ring = text * (order + 2)
        grams = {
            m: Counter(tuple(ring[i : i + m]) for i in range(len(text)))
            for m in range(1, order + 1)
        }
        self.counts: dict[int, Counter[Sequence]] = {order: grams[order]}
        for m in range(1, order):
            self.counts[m] = Counter(longer[1:] for longer in grams[m + 1])

    def p(self, history: Sequence, token: int) -> float:
        """Of `token` after all of `history`."""
        return self._p(history[max(0, len(history) - self.order + 1) :], token)

    def _p(self, context: Sequence, token: int) -> float:
        counts = self.counts[len(context) + 1]
        lower = 1 / self.vocab if not context else self._p(context[1:], token)
        after = {gram[-1]: number for gram, number in counts.items() if gram[:-1] == context}
        if not after:
            return lower
        times = Counter(counts.values())
        discount = times[1] / (times[1] + 2 * times[2]) if times[1] else 0.5
        total = sum(after.values())
        own = max(after.get(token, 0) - discount, 0) / total
        return own + discount * len(after) / total * lower


def fast(text: list[int], order: int, vocab: int) -> NgramModel:
    return NgramModel(ngram.count(np.array(text), order), vocab_size=vocab)


def contexts(model: NgramModel, history: Sequence) -> ngram.Integers:
    context_MB = model._no_context(1)
    for token in history:
        context_MB = model._append(context_MB, np.array([token]))
    return context_MB


@given(
    text=st.lists(st.integers(0, 4), min_size=1, max_size=60),
    history=st.lists(st.integers(0, 6), max_size=6),
    order=st.integers(1, 8),
)
def test_equals_the_formula_written_out_with_dictionaries(
    text: list[int], history: list[int], order: int
) -> None:
    """Every order, histories that the text has and has not, tokens that it never had: to 1e-12, and the sum is 1."""
    slow, model = Slow(text, order, 7), fast(text, order, 7)

    got_V = np.exp(model.log_probs(contexts(model, tuple(history)))[0])

    assert got_V == pytest.approx([slow.p(tuple(history), v) for v in range(7)], abs=1e-12)
    assert got_V.sum() == pytest.approx(1.0, abs=1e-12)
    assert (got_V > 0).all()


@given(text=st.lists(st.integers(0, 4), min_size=1, max_size=60), order=st.integers(1, 5))
def test_a_text_is_scored_as_its_steps_are(text: list[int], order: int) -> None:
    """`token_logp` looks only at the tokens that come; the step scores all of them."""
    model = fast(text[: len(text) // 2 + 1], order, 5)

    got_N = model.token_logp(np.array(text))

    want = [model.log_probs(contexts(model, tuple(text[:t])))[0, text[t]] for t in range(len(text))]
    assert got_N == pytest.approx(want, abs=1e-12)


def test_by_hand() -> None:
    """0 1 0 2, as a ring, order 2: after 0 come 1 and 2, once each.

    Bigrams 01 10 02 20, each once: D = 1, so all of a bigram's mass goes down. Below, 1 and 2 stand after one
    token each and 0 after two: D = 2 / (2 + 2) = 1/2.
    """
    model = fast([0, 1, 0, 2], 2, 4)

    got = np.exp(model.log_probs(contexts(model, (0,)))[0])

    base = 0.5 * 3 / 4 / 4
    assert got == pytest.approx([1.5 / 4 + base, 0.5 / 4 + base, 0.5 / 4 + base, base])


@pytest.mark.parametrize("order", [1, 2, 4])
def test_steps_of_a_batch_equal_single_rows(order: int) -> None:
    """Prefixes shared by completions, rows that part, a State used twice: each row is as if alone."""
    rng = np.random.default_rng(0)
    model = fast(rng.integers(0, 20, 2000).tolist(), order, 23)
    ids_BT = torch.from_numpy(rng.integers(0, 23, (6, 9)))
    ids_BT[:, :4] = ids_BT[::2, :4].repeat_interleave(2, 0)
    state = model.allocate(6, 9)
    for _ in range(2):
        logits = [model.prefill(state, ids_BT[::2, :4]).repeat_interleave(2, 0)]
        logits += [model.step(state, ids_BT[:, t]) for t in range(4, 9)]

        for t, got_BV in enumerate(logits, start=4):
            assert got_BV.dtype == torch.float32
            for row in range(6):
                alone = model.log_probs(contexts(model, tuple(ids_BT[row, :t].tolist())))[0]
                np.testing.assert_allclose(got_BV[row].numpy(), alone, atol=2e-6)


def test_it_learns() -> None:
    """A text of one repeated sentence is predicted better by every further order."""
    text = [1, 2, 3, 1, 2, 4, 1, 5] * 40

    losses = [-fast(text, order, 8).token_logp(np.array(text)).mean() for order in (1, 2, 3)]

    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.2 < math.log(5) < math.log(8)


def test_saved_and_loaded_it_is_the_same(tmp_path: Path) -> None:
    """And saving twice gives the same bytes."""
    levels = ngram.count(np.random.default_rng(1).integers(0, 50, 3000), 3)

    path = ngram.save(levels, tmp_path / "a")
    ngram.save(ngram.load(tmp_path / "a"), tmp_path / "b")

    assert path.read_bytes() == (tmp_path / "b" / ngram.FILE).read_bytes()
    again, model = (
        NgramModel(some, vocab_size=64) for some in (ngram.load(tmp_path / "a"), levels)
    )
    context_MB = contexts(model, (3, 4))
    assert np.array_equal(again.log_probs(context_MB), model.log_probs(context_MB))


def test_what_is_no_model_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="cannot be read as n-gram counts"):
        ngram.load(tmp_path)
    (tmp_path / ngram.FILE).write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")
    with pytest.raises(BuildError, match="cannot be read as n-gram counts"):
        ngram.load(tmp_path)
    with pytest.raises(BuildError, match="nothing to count"):
        ngram.count(np.array([], np.int64), 2)
