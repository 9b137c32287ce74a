"""Copies land on one side, a new source moves nothing, and what is kept for evaluation is nowhere else."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdgen.recipes.schema import Source, Splits, Text
from cdgen.text.sides import LEFT_OUT, Placed, batches, place, train_texts

SPLITS = Splits(train=0.5, eval=0.2, prefix=0.3, seed=7)
CORPUS = st.lists(st.sampled_from([f"document {n}" for n in range(8)]), min_size=1, max_size=8)


def placed(folder: Path, *corpora: list[str], only: dict[int, str] | None = None) -> list[Placed]:
    """All documents of several sources, each a file."""
    sources, paths = [], {}
    for number, corpus in enumerate(corpora):
        name = f"s{number}"
        paths[name] = folder / f"{name}.txt"
        paths[name].write_text("\n\n".join(corpus), encoding="utf-8")
        kept: Any = (only or {}).get(number)
        sources.append(Source(name=name, license="MIT", path=paths[name], only=kept))
    text = Text(sources=tuple(sources), splits=SPLITS)
    found = list(place(text, paths))
    assert list(train_texts(text, paths)) == [item.text for item in found if item.side == "train"]
    return found


@given(st.lists(CORPUS, min_size=1, max_size=3))
@settings(deadline=None)
def test_copies_land_on_one_side(
    tmp_path_factory: pytest.TempPathFactory, corpora: list[list[str]]
) -> None:
    """Within a source and between sources; every copy has an id of its own."""
    found = placed(tmp_path_factory.mktemp("t"), *corpora)
    sides: dict[str, set[str]] = {}
    for item in found:
        sides.setdefault(item.text, set()).add(item.side)

    assert all(len(group) == 1 for group in sides.values())
    assert len({item.id for item in found}) == len(found) == sum(map(len, corpora))


@given(st.lists(CORPUS, min_size=2, max_size=4), st.data())
@settings(deadline=None)
def test_a_new_source_moves_no_other_document(
    tmp_path_factory: pytest.TempPathFactory, corpora: list[list[str]], data: st.DataObject
) -> None:
    """Neither its side nor its id, wherever the source is put."""
    folder = tmp_path_factory.mktemp("t")
    before = {(item.id, item.side) for item in placed(folder, *corpora)}
    new = data.draw(CORPUS)

    after = {(item.id, item.side) for item in placed(folder, *corpora, new)}

    assert before <= after


@given(CORPUS, CORPUS, st.sampled_from(["train", "eval", "prefix"]), st.booleans())
@settings(deadline=None)
def test_what_a_source_keeps_for_a_side_is_on_no_other(
    tmp_path_factory: pytest.TempPathFactory,
    free: list[str],
    kept: list[str],
    side: str,
    first: bool,
) -> None:
    """Copies of it elsewhere are left out, and nothing else is; the order of the sources does not matter."""
    folder = tmp_path_factory.mktemp("t")
    corpora = (kept, free) if first else (free, kept)
    own = 0 if first else 1
    found = placed(folder, *corpora, only={own: side})
    alone = {item.text: item.side for item in placed(tmp_path_factory.mktemp("u"), free)}

    for item in found:
        if item.document.source == f"s{own}":
            assert item.side == side
        elif item.text in kept and alone[item.text] != side:
            assert item.side == LEFT_OUT
        else:
            assert item.side == alone[item.text]


def test_of_two_sources_that_keep_a_text_the_first_counts(tmp_path: Path) -> None:
    found = placed(tmp_path, ["a", "b"], ["b", "c"], only={0: "eval", 1: "train"})

    assert [(item.text, item.side) for item in found] == [
        ("a", "eval"),
        ("b", "eval"),
        ("b", LEFT_OUT),
        ("c", "train"),
    ]


def test_batches_are_bounded_and_lose_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In documents and in characters."""
    found = placed(tmp_path, [f"{n:03d}" + "x" * (n % 50) for n in range(300)])
    monkeypatch.setattr("cdgen.text.sides.BATCH_DOCUMENTS", 16)
    monkeypatch.setattr("cdgen.text.sides.BATCH_CHARACTERS", 200)
    made = list(batches(found))

    assert [item for batch in made for item in batch] == found
    assert all(
        len(batch) <= 16 and sum(len(item.text) for item in batch[:-1]) < 200 for batch in made
    )
