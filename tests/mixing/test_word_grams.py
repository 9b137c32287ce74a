"""N-grams of evaluation items in texts: the table finds what the obvious loop finds."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from cdgen.mixing.word_grams import Hit, WordGrams
from cdgen.shards.similarity import words


def naive(groups: list[list[str]], n: int, texts: list[str]) -> list[Hit]:
    """Every window of every text against every n-gram of every item."""
    found: dict[tuple[int, int], Hit] = {}
    for group, items in enumerate(groups):
        for number, item in enumerate(items):
            whole = words(item)
            length = min(n, len(whole))
            grams = [whole[i : i + length] for i in range(len(whole) - length + 1)] if whole else []
            for place, text in enumerate(texts):
                seen = words(text)
                for begin in range(len(seen)):
                    for gram in grams:
                        if seen[begin : begin + length] == gram:
                            hit = Hit(place, group, number, begin, length)
                            held = found.get((place, group))
                            better = held is None or (begin, -length, number) < (
                                held.begin, -held.num_words, held.item,
                            )  # fmt: skip
                            if better:
                                found[place, group] = hit
    return [found[key] for key in sorted(found)]


@given(st.randoms(use_true_random=False), st.integers(1, 6))
@settings(max_examples=60)
def test_the_table_finds_what_the_obvious_loop_finds(rng: random.Random, n: int) -> None:
    """Few different words, so that everything overlaps; other words and borders between texts break windows."""

    def some(count: int, longest: int, of: str) -> list[str]:
        return [" ".join(rng.choices(of, k=rng.randint(0, longest))) for _ in range(count)]

    groups = [some(rng.randint(0, 4), 9, "abc") for _ in range(rng.randint(1, 3))]
    texts = some(rng.randint(1, 6), 14, "abcabcx")

    assert WordGrams(groups, n).find(texts) == naive(groups, n, texts)


def test_case_punctuation_and_width_do_not_matter() -> None:
    grams = WordGrams([["Who should DEREK hug?"]], 13)

    (hit,) = grams.find(["He asked: “who - should Derek, hug” and\nleft."])

    assert (hit.begin, hit.num_words) == (2, 4)
    assert grams.find(["who should derek ｈｕｇ"]) != []


def test_a_short_item_matches_whole_and_only_whole() -> None:
    grams = WordGrams([["one two three"]], 13)

    assert grams.find(["zero one two", "two three four"]) == []
    assert [hit.num_words for hit in grams.find(["zero one two three four"])] == [3]


def test_a_long_item_matches_by_any_n_words_of_it() -> None:
    grams = WordGrams([["a b c d e f g"]], 4)

    assert [(hit.begin, hit.num_words) for hit in grams.find(["x c d e f x"])] == [(1, 4)]
    assert grams.find(["x c d e x f g"]) == []


def test_no_window_crosses_from_one_text_into_the_next() -> None:
    assert WordGrams([["one two"]], 13).find(["zero one", "two three"]) == []


def test_items_without_words_match_nothing() -> None:
    grams = WordGrams([["", "…", "?!"]], 3)

    assert grams.num_items == [3]
    assert grams.find(["", "…", "words"]) == []
