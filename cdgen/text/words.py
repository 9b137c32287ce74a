"""Byte-level BPE at the speed of a table: text is cut into words, and each different word is encoded once.

BPE never merges across the words (pre-tokens) of the tokenizer's pattern, and a text has few different ones. So the
words are found here, in whole batches of documents with array operations, counted up by Arrow, and only words never
seen before go through the `tokenizers` library. The ids are the library's own: a property test compares them.
"""

import json
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import repeat
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from tokenizers import Tokenizer as Backend
from tokenizers.pre_tokenizers import ByteLevel

MAX_WORDS = 400_000
"""Words kept; then the table begins anew, so that hostile text cannot fill the memory (about 150 bytes a word)."""
MAX_IDS = 1 << 24
"""Ids of all words together: likewise."""
_WORDS_PER_TEXT = 256
_CHARACTERS_PER_CALL = 1 << 19
"""The library's answer takes some hundred bytes for each token, until its ids are taken out."""

_END, _UNKNOWN, _LETTER, _NUMBER, _OTHER, _SPACE = range(6)
_PROBES = {_LETTER: "a", _NUMBER: "1", _OTHER: "!"}
_CONTRACTIONS = (b"s", b"t", b"re", b"ve", b"m", b"ll", b"d")
_PATTERN_FREE_FIELDS = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
_MODEL_FREE_FIELDS = ("dropout", "continuing_subword_prefix", "end_of_word_suffix")

Bytes = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Small = npt.NDArray[np.int32]


def fits(backend: Backend) -> bool:
    """Whether a tokenizer's ids are its words' ids: byte-level BPE with GPT-2's pattern and nothing before it."""
    spec: dict[str, Any] = json.loads(backend.to_str())
    before, model = spec["pre_tokenizer"] or {}, spec["model"]
    if model["type"] != "BPE" or not set(ByteLevel.alphabet()) <= set(model["vocab"]):
        return False
    return (
        spec["normalizer"] is None
        and {**before, **_PATTERN_FREE_FIELDS} == before
        and not any(model.get(name) for name in _MODEL_FREE_FIELDS)
        and spec.get("truncation") is None
        and spec.get("padding") is None
        and all(token["special"] for token in spec["added_tokens"])
    )


class WordTable:
    """The ids of every word met so far.

    Args:
        backend: a tokenizer that `fits`, with `encode_special_tokens` set.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._classes = _Classes(backend)
        self._token_bytes = _token_bytes(backend)
        self.longest_bytes = int(self._token_bytes.max())
        """Of the text of any token."""
        self._clear()

    def _clear(self) -> None:
        self._rows: dict[bytes, int] = {}
        self._flat: Small = np.empty(0, np.int32)
        self._starts: Small = np.empty(0, np.int32)
        """Of each word's ids in `_flat`."""
        self._sizes: Small = np.empty(0, np.int32)

    @property
    def num_words(self) -> int:
        """Words in the table now."""
        return len(self._rows)

    def encode(self, texts: Sequence[str]) -> tuple[Small, Ints]:
        """Token ids of all texts, one after the other, and where each text's begin and end: `[texts + 1]`."""
        if not texts:
            return np.empty(0, np.int32), np.zeros(1, np.int64)
        if len(self._rows) > MAX_WORDS or len(self._flat) > MAX_IDS:
            self._clear()
        data, ends = _joined(texts)
        starts = np.flatnonzero(self._word_starts(data, ends)).astype(np.int32)
        offsets = pa.py_buffer(np.append(starts, np.int32(len(data))))
        words = pa.Array.from_buffers(
            pa.binary(), len(starts), [None, offsets, pa.py_buffer(data)]
        ).dictionary_encode()
        rows = self._rows_of(words.dictionary.to_pylist())[words.indices.to_numpy()]
        is_end = np.zeros(len(data), np.bool_)
        is_end[ends] = True
        at_end = np.flatnonzero(is_end[starts])
        begins, sizes = self._starts[rows], self._sizes[rows]
        sizes[at_end] = 0
        after = np.cumsum(sizes)
        begins -= (after - sizes).astype(np.int32)
        place = np.repeat(begins, sizes)
        place += np.arange(len(place), dtype=np.int32)
        return self._flat[place], np.append(0, after[at_end])

    def encode_with_ends(self, texts: Sequence[str]) -> list[tuple[npt.NDArray[np.int64], Ints]]:
        """(ids, the byte after the last character that each token is a part of) of each text."""
        short_ids, bounds = self.encode(texts)
        ids = short_ids.astype(np.int64)
        total = np.append(0, np.cumsum(self._token_bytes[ids]))
        found = []
        for text, first, last in zip(texts, bounds[:-1], bounds[1:], strict=True):
            ends = total[first + 1 : last + 1] - total[first]
            if not text.isascii():
                data = np.frombuffer(text.encode() + b" ", np.uint8)
                for _ in range(3):  # a character has at most three bytes after its first
                    ends += (data[ends] & 0xC0) == 0x80
            found.append((ids[first:last], ends))
        return found

    def _rows_of(self, words: list[bytes]) -> Small:
        """The table's row of each word; new ones are encoded by the library."""
        known = self._rows
        rows = np.fromiter(map(known.get, words, repeat(-1)), np.int32, len(words))
        places = np.flatnonzero(rows < 0)
        if len(places):
            new = [words[place] for place in places.tolist()]
            flat, sizes = self._encode_words([word.decode() for word in new])
            starts = len(self._flat) + np.cumsum(sizes) - sizes
            rows[places] = np.arange(len(known), len(known) + len(new))
            known.update(zip(new, rows[places].tolist(), strict=True))
            self._starts = np.append(self._starts, starts.astype(np.int32))
            self._sizes = np.append(self._sizes, sizes.astype(np.int32))
            self._flat = np.append(self._flat, flat)
        return rows

    def _encode_words(self, words: list[str]) -> tuple[Small, Ints]:
        """(ids of all words, how many each has), by the library; many words are given as one cut text."""
        flat, sizes = [], []
        for texts in _cut_texts(words):
            encoded = self._backend.encode_batch(
                texts, is_pretokenized=True, add_special_tokens=False
            )
            for text, encoding in zip(texts, encoded, strict=True):
                word_ids = np.asarray(encoding.word_ids, np.int64)
                flat.append(np.asarray(encoding.ids, np.int32))
                sizes.append(np.bincount(word_ids, minlength=len(text)))
        return np.concatenate(flat), np.concatenate(sizes)

    def _word_starts(self, data: Bytes, ends: Ints) -> Mask:
        """True at the first byte of each word; each text's end is a word of its own.

        The pattern: 's|'t|'re|'ve|'m|'ll|'d| ?letters| ?numbers| ?others|spaces not before a non-space|spaces
        """
        kinds = self._classes.of(data)
        kinds[ends] = _END
        start = np.empty(len(data), np.bool_)
        start[0] = True
        np.not_equal(kinds[1:], kinds[:-1], out=start[1:])
        start[ends] = True
        _leave_last_space(data, kinds, start)
        _contractions(data, start)
        return start


def _token_bytes(backend: Backend) -> Ints:
    """By id: bytes of each token's text. In byte-level BPE a token has one character for each byte."""
    vocabulary = backend.get_vocab(with_added_tokens=True)
    sizes = np.ones(max(vocabulary.values()) + 1, np.int64)
    for token, number in vocabulary.items():
        sizes[number] = len(token)
    return sizes


def _cut_texts(words: list[str]) -> Iterator[list[list[str]]]:
    """The words as texts of some words each, in groups of a bounded size; a long word is a group by itself."""
    ends = np.cumsum(np.fromiter(map(len, words), np.int64, len(words)))
    group_of = (ends // _CHARACTERS_PER_CALL).tolist()
    first = 0
    while first < len(words):
        last = bisect_right(group_of, group_of[first], lo=first)
        yield [
            words[start : min(start + _WORDS_PER_TEXT, last)]
            for start in range(first, last, _WORDS_PER_TEXT)
        ]
        first = last


def _joined(texts: Sequence[str]) -> tuple[Bytes, Ints]:
    """(the bytes of all texts, one byte after each, where these bytes are)."""
    text = "\n".join([*texts, ""])
    data = np.frombuffer(text.encode(), np.uint8)
    ends = np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)) + 1) - 1
    if len(data) > len(text):  # not ASCII alone: from characters to bytes
        ends = np.flatnonzero((data & 0xC0) != 0x80)[ends]
    return data, ends


def _leave_last_space(data: Bytes, kinds: Bytes, start: Mask) -> None:
    """The last white space before a word is the word's own if it is " ", and a word by itself otherwise."""
    visible = kinds < _SPACE
    visible &= kinds > _END
    before = np.flatnonzero(visible[1:] & (kinds[:-1] == _SPACE))
    joined = data[before] == ord(" ")
    start[before[joined] + 1] = False
    while True:  # to the first byte of the white space
        inside = (data[before] & 0xC0) == 0x80
        if not inside.any():
            break
        before = before - inside
    start[before] = True


def _contractions(data: Bytes, start: Mask) -> None:
    """'s, 't, 're, … are words of their own, unless a space belongs to the quote."""
    quotes = np.flatnonzero((data[:-2] == ord("'")) & start[:-2] & start[1:-1])
    first, second = data[quotes + 1], data[quotes + 2]
    for ending in _CONTRACTIONS:
        fit = first == ending[0]
        if len(ending) == 2:
            fit &= (second == ending[1]) & ~start[quotes + 2]
        found = quotes[fit]
        start[found + 1] = False
        start[found + 1 + len(ending)] = True


class _Classes:
    """What the pattern of the library takes each character for: it is asked, once for each character."""

    def __init__(self, backend: Backend) -> None:
        self._pre_tokenize = backend.pre_tokenizer.pre_tokenize_str
        self._table = np.full(0x110000, _UNKNOWN, np.uint8)
        self._learn(np.arange(128))
        self._bytes: Bytes = np.ascontiguousarray(self._table[:256])

    def of(self, data: Bytes) -> Bytes:
        """The class of the character that each byte of a UTF-8 text belongs to."""
        kinds = self._bytes[data]
        if data.max() >= 0x80:
            wide = np.flatnonzero(data >= 0x80)
            kinds[wide] = self._of_wide(data, wide)
        return kinds

    def _of_wide(self, data: Bytes, wide: Ints) -> Bytes:
        """The same for the bytes at `wide`, which are the ones of all characters beyond ASCII."""
        lead = data[wide] >= 0xC0
        places = wide[lead]
        points = _code_points(data, places)
        kinds = self._table[points]
        if (kinds == _UNKNOWN).any():
            self._learn(np.unique(points[kinds == _UNKNOWN]))
            kinds = self._table[points]
        of_bytes: Bytes = kinds[np.cumsum(lead) - 1]
        return of_bytes

    def _learn(self, points: Ints) -> None:
        for point in points.tolist():
            self._table[point] = next(
                (
                    kind
                    for kind, probe in _PROBES.items()
                    if len(self._pre_tokenize(probe + chr(point))) == 1
                ),
                _SPACE,
            )


def _code_points(data: Bytes, places: Ints) -> Ints:
    """The characters whose first bytes are at `places`."""
    lead = data[places].astype(np.int64)
    size = 2 + (lead >= 0xE0) + (lead >= 0xF0)
    points = lead & (0x7F >> size)
    for number in range(1, 4):
        more = size > number
        points[more] = points[more] << 6 | data[places[more] + number] & 0x3F
    return points
