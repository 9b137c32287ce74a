"""Reading times: how much of them a model's surprisal explains beyond frequency, length and position.

The surprisal of a word is that of its tokens one by one, each after the text so far spelled out and tokenized anew:
so the BabyLM pipeline has it, and so it is here. A word is tokenized by itself, without the space before it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cdgen.evaluation.items import Item, Option, files_digest
from cdgen.evaluation.places import EvalData, csv_rows, number_of, text_of
from cdgen.evaluation.tokens import TextEncoder
from cdgen.evaluation.trie import Sequence as Tokens

SELF_PACED = ("self_paced_reading_time",)
EYE_TRACKING = ("RTfirstfix", "RTfirstpass", "RTgopast", "RTrightbound")
_TIMES: Mapping[str, Sequence[str]] = {"reading": SELF_PACED, "eye_tracking": EYE_TRACKING}
_COVARIATES = ("Subtlex_log10", "length", "context_length", "prev_length")
_MISSING = frozenset(
    {
        "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A",
        "NA", "NULL", "NaN", "None", "n/a", "nan", "null",
    }
)  # fmt: skip
"""What pandas takes for nothing; the pipeline reads the file with it, and puts None before a sentence's first word."""


@dataclass(frozen=True, slots=True)
class Word:
    """A word after its context."""

    context: str
    word: str


@dataclass(frozen=True, slots=True)
class ReadingItem:
    """A word that people read, the word before it (None at the beginning), and the numbers of its row."""

    name: str
    word: Word
    before: Word | None
    covariates: tuple[float, ...]
    times: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class ReadingData:
    """The rows for a task, and the digest of their file."""

    items: Sequence[ReadingItem]
    digest: str


def read_reading(task: str, data: EvalData, limit: int | None) -> ReadingData:
    """The words of a task.

    Args:
        task: reading (self-paced) or eye_tracking.
        data: where reading/reading_data.csv is.
        limit: rows at most.

    Raises:
        UsageError: no such file, or a row that is not what it should be.
    """
    file = data.find(task, "reading/reading_data.csv", "reading_data.csv")
    items = [_item(where, row, _TIMES[task]) for where, row in csv_rows(file)]
    return ReadingData(items[:limit], files_digest([file]))


def _item(where: str, row: dict[str, str], times: Sequence[str]) -> ReadingItem:
    before = None
    if row.get("prev_item", "") not in _MISSING:
        before = Word(row["prev_item"], text_of(row, "prev_word", where))
    context = row.get("item", "")
    return ReadingItem(
        name=row.get("", "") or where.rpartition(":")[2],
        word=Word("None" if context in _MISSING else context, text_of(row, "word", where)),
        before=before,
        covariates=tuple(_number(row, field, where) for field in _COVARIATES),
        times=tuple(_number(row, field, where) for field in times),
    )


def _number(row: dict[str, str], field: str, where: str) -> float:
    return math.nan if row.get(field, "") in _MISSING else number_of(row, field, where)


def words_of(data: ReadingData) -> list[Word]:
    """Every word after its context, each once: a word is the word before of the next one."""
    all_words = (word for one in data.items for word in (one.word, one.before) if word is not None)
    return list(dict.fromkeys(all_words))


def word_sequences(word: Word, encoder: TextEncoder) -> list[Tokens]:
    """One sequence per token of the word; its surprisal is minus the sum of their scores."""
    text = word.context
    found: list[Tokens] = []
    for token in encoder.bare_ids(word.word):
        spelled = encoder.decoded(token)
        # After the first, the token's text is encoded again: usually, not always, to the same token.
        target = token if not found else encoder.bare_ids(spelled)[0]
        context = encoder.ids(text)
        found.append(Tokens(np.array([*context, target], np.int64), len(context)))
        text += spelled
    return found


def as_item(task: str, item: ReadingItem, before: float) -> Item:
    """The row of items.parquet, with the surprisal of the word before (NaN: there is none)."""
    return Item(
        part=task,
        name=item.name,
        options=(Option(item.word.word),),
        inputs=(before, *item.covariates, *item.times),
    )
