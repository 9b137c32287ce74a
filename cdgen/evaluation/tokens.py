"""Texts as the tokens that a checkpoint's own tokenizer makes of them, special tokens included.

The library's encoding with offsets is the definition. Where the tokenizer is a plain byte-level BPE, cdgen's table of
words gives the same ids many times faster; that it does is compared on a sample of every set of texts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from transformers import AutoTokenizer

from cdgen.errors import UsageError
from cdgen.evaluation.items import Option
from cdgen.evaluation.trie import Ints
from cdgen.evaluation.trie import Sequence as Tokens
from cdgen.text.tokenizer import Tokenizer
from cdgen.text.words import fits

_COMPARED = 64
_PER_CALL = 4096


@dataclass(frozen=True, slots=True)
class TextEncoder:
    """A checkpoint's tokenizer.

    Attributes:
        tokenizer: of transformers.
        words: the same one as cdgen reads it, where that is quicker.
    """

    tokenizer: Any
    words: Tokenizer | None

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The tokenizer in a model folder.

        Raises:
            UsageError: there is none, or not one that says which characters each token stands for.
        """
        try:
            tokenizer = AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
        except Exception as error:  # a foreign file can make it raise anything
            first = str(error).strip().split("\n")[0][:200]
            raise UsageError(f"{folder}: no tokenizer that transformers loads: {first}") from error
        if not getattr(tokenizer, "is_fast", False):
            raise UsageError(
                f"{folder}: its tokenizer does not say which characters a token stands for; a fast one "
                "(tokenizer.json) is needed: save it again with AutoTokenizer(…, use_fast=True).save_pretrained"
            )
        tokenizer.deprecation_warnings["sequence-length-is-longer-than-the-specified-maximum"] = (
            True
        )
        words = None
        if (folder / "tokenizer.json").is_file():
            known = Tokenizer.load(folder)
            words = known if fits(known.backend) else None
        return cls(tokenizer, words)

    def sequences(self, options: Sequence[Option]) -> list[Tokens]:
        """Ids of each text, and the first token that ends after the option's start (at 1 or later).

        A sequence ends with the last token that counts: what the tokenizer appends has no part in a score.
        """
        quick = self._quick(options)
        if quick is not None:
            return quick
        found: list[Tokens] = []
        for first in range(0, len(options), _PER_CALL):
            found += self._slow(options[first : first + _PER_CALL])
        return found

    def ids(self, text: str) -> list[int]:
        """Ids with the tokenizer's special tokens."""
        return list(self.tokenizer(text)["input_ids"])

    def bare_ids(self, text: str) -> list[int]:
        """Ids without special tokens."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def decoded(self, token: int) -> str:
        """The text of one token."""
        return str(self.tokenizer.decode(token))

    def _slow(self, options: Sequence[Option]) -> list[Tokens]:
        encoded = self.tokenizer([option.text for option in options], return_offsets_mapping=True)
        return [
            _counted(
                np.array(ids, np.int64), np.array(offsets, np.int64).reshape(-1, 2), option.start
            )
            for ids, offsets, option in zip(
                encoded["input_ids"], encoded["offset_mapping"], options, strict=True
            )
        ]

    def _quick(self, options: Sequence[Option]) -> list[Tokens] | None:
        """By the table of words; None where that is not surely the same."""
        if self.words is None or any(option.text[:1].isspace() for option in options):
            return None
        sample = options[:: max(1, len(options) // _COMPARED)]
        exact = self._slow(sample)
        bare = self.words.encode([option.text for option in sample])
        before = _put_before(exact, bare)
        if before is None or not _same(exact, self._by_words(sample, before)):
            return None
        return self._by_words(options, before)

    def _by_words(self, options: Sequence[Option], before: Ints) -> list[Tokens]:
        assert self.words is not None
        found = []
        for first in range(0, len(options), _PER_CALL):
            some = options[first : first + _PER_CALL]
            encoded = self.words.encode_with_ends([option.text for option in some])
            for option, (ids, ends) in zip(some, encoded, strict=True):
                text = option.text
                start = option.start if text.isascii() else len(text[: option.start].encode())
                counted = len(before) + int(np.searchsorted(ends, start, side="right"))
                found.append(Tokens(np.concatenate([before, ids]), max(1, counted)))
        return found


def _counted(ids: Ints, offsets: Ints, start: int) -> Tokens:
    """The tokens up to the last one that ends after `start`, and the first that does."""
    if not len(ids):
        return Tokens(ids, 1)
    ends_after = np.flatnonzero(offsets[:, 1] > start + offsets[0, 0])
    if not len(ends_after):
        return Tokens(ids, max(1, len(ids)))
    return Tokens(ids[: ends_after[-1] + 1], max(1, int(ends_after[0])))


def _put_before(exact: Sequence[Tokens], bare: Sequence[Ints]) -> Ints | None:
    """The special tokens that stand before every text."""
    sizes = {len(one.ids) - len(ids) for one, ids in zip(exact, bare, strict=True)}
    if len(sizes) != 1:
        return None
    size = sizes.pop()
    return exact[0].ids[:size] if size >= 0 else None


def _same(a: Sequence[Tokens], b: Sequence[Tokens]) -> bool:
    return all(
        x.start == y.start and np.array_equal(x.ids, y.ids) for x, y in zip(a, b, strict=True)
    )
