"""Forbidden n-grams: against transformers, the slow reference, and what may not change them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import NoRepeatNGramLogitsProcessor

from cdgen.decode import reference
from cdgen.decode.repeats import Repeats

CPU = torch.device("cpu")


def random_ids(rows: int, length: int, vocab: int, seed: int) -> Tensor:
    return torch.randint(vocab, (rows, length), generator=torch.Generator().manual_seed(seed))


@settings(max_examples=60, deadline=None)
@given(
    ngram=st.integers(1, 6),
    vocab=st.integers(2, 6),
    prefix_tokens=st.integers(1, 5),
    seed=st.integers(0, 2**32),
)
def test_bans_are_those_of_transformers_at_every_step(
    ngram: int, vocab: int, prefix_tokens: int, seed: int
) -> None:
    """Few different tokens, so that everything repeats; rows of a prefix part after it."""
    completions, length = 3, 18
    ids_BL = random_ids(2 * completions, length, vocab, seed)
    prefix_PT = ids_BL[::completions, :prefix_tokens]
    ids_BL[:, :prefix_tokens] = prefix_PT.repeat_interleave(completions, dim=0)
    theirs = NoRepeatNGramLogitsProcessor(ngram)
    repeats = Repeats(ngram, rows=len(ids_BL), length=length, vocab=vocab, device=CPU)

    for _batch in range(2):  # the memory is used again
        repeats.start(prefix_PT)
        for t in range(prefix_tokens, length):
            scores_BV = theirs(ids_BL[:, :t], torch.zeros(len(ids_BL), vocab))
            assert torch.equal(repeats.banned(), scores_BV == -torch.inf)
            repeats.append(ids_BL[:, t])


@settings(max_examples=60, deadline=None)
@given(ids=st.lists(st.integers(0, 3), min_size=1, max_size=20), ngram=st.integers(1, 5))
def test_the_slow_reference_agrees(ids: list[int], ngram: int) -> None:
    """`reference.banned_tokens`, by looking at every n-gram."""
    repeats = Repeats(ngram, rows=1, length=20, vocab=4, device=CPU)

    repeats.start(torch.tensor([ids]))

    banned = set(repeats.banned()[0].nonzero().flatten().tolist())
    assert banned == reference.banned_tokens(ids, ngram)


def test_an_n_gram_that_ends_at_the_last_token_counts() -> None:
    """After a b a b: a third `a` would make b a stand twice, by overlapping n-grams too."""
    repeats = Repeats(2, rows=1, length=8, vocab=4, device=CPU)

    repeats.start(torch.tensor([[1, 1, 1]]))
    assert repeats.banned()[0].tolist() == [False, True, False, False]
    repeats.append(torch.tensor([2]))

    assert not repeats.banned().any()


@pytest.mark.parametrize("ngram", [1, 3])
def test_the_order_of_rows_does_not_matter(ngram: int) -> None:
    ids_BL, order = random_ids(16, 12, 3, 5), torch.randperm(16)
    one, two = (Repeats(ngram, rows=16, length=12, vocab=3, device=CPU) for _ in range(2))

    one.start(ids_BL)
    two.start(ids_BL[order])

    assert torch.equal(one.banned()[order], two.banned())
