"""Which side of the split a document is on, and how long documents are cut.

The side is keyed by the text alone, so that duplicates stay together and adding a source moves nothing else.
A document's id is keyed by source and text, with an occurrence number, so that duplicates differ.
Offsets are UTF-8 bytes in the parent document.
"""

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from cdgen.recipes.schema import Splits

SIDES = ("train", "eval", "prefix")
CHUNK_MIN_WORDS = 100
CHUNK_MAX_WORDS = 200

_SENTENCE_END = re.compile(r"""[.!?][.!?"'”’»)\]]*(?=\s)|\n""")
_WORD = re.compile(r"\S+")


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of a parent document."""

    text: str
    start_bytes: int
    end_bytes: int


def document_id(source: str, text: str) -> str:
    """24 hex digits that name a document by its source and content."""
    return hashlib.sha256(source.encode() + b"\0" + text.encode()).hexdigest()[:24]


def side(text: str, splits: Splits) -> str:
    """train, eval or prefix: a uniform keyed by the seed and the text, against the shares."""
    key = hashlib.sha256(f"{splits.seed}:".encode() + text.encode()).digest()
    uniform = int.from_bytes(key[:8], "big") / 2**64
    if uniform < splits.train:
        return "train"
    return "eval" if uniform < splits.train + splits.eval else "prefix"


def sentences(text: str) -> list[tuple[int, int]]:
    """(start, end) in characters of each sentence, white space before it included; together the whole text."""
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    if not ends or ends[-1] < len(text):
        ends.append(len(text))
    return [(start, end) for start, end in zip([0, *ends], ends, strict=False) if start < end]


def whole(text: str) -> Span:
    """A document as one piece: white space around it left out. Its text must not be white space alone."""
    inner = text.strip()
    start = 0 if inner == text else len(text[: len(text) - len(text.lstrip())].encode())
    return Span(inner, start, start + (len(inner) if inner.isascii() else len(inner.encode())))


def chunks(text: str) -> list[Span]:
    """Cut a prefix document into chunks of 100-200 words at sentence ends (paper, section 5).

    A document under 100 words is one chunk. A sentence of more than 200 words is cut between words. What is left
    at the end joins the chunk before it where that stays within 200 words, and is a short chunk of its own otherwise.
    """
    cuts: list[tuple[int, int]] = []
    start, num_words = 0, 0
    for unit_start, unit_end in _within(sentences(text), text, CHUNK_MAX_WORDS):
        unit_words = _num_words(text[unit_start:unit_end])
        if num_words and num_words + unit_words > CHUNK_MAX_WORDS:
            cuts.append((start, unit_start))
            start, num_words = unit_start, 0
        num_words += unit_words
        if num_words >= CHUNK_MIN_WORDS:
            cuts.append((start, unit_end))
            start, num_words = unit_end, 0
    if num_words:
        joined = cuts and _num_words(text[cuts[-1][0] : cuts[-1][1]]) + num_words <= CHUNK_MAX_WORDS
        cuts.append((cuts.pop()[0] if joined else start, len(text)))
    return list(_spans(text, cuts))


def pieces(
    text: str, num_tokens: Callable[[Sequence[str]], list[int]], max_tokens: int
) -> list[Span]:
    """Cut a document into pieces of at most `max_tokens` tokens, at sentence ends where there are any.

    Args:
        text: the parent document.
        num_tokens: how many tokens each of several texts has; may be too low for one that has more than the limit,
            as long as it is above the limit.
        max_tokens: the limit, special tokens not counted.
    """
    if not text or text.isspace():
        return []
    span = whole(text)
    if num_tokens([span.text])[0] <= max_tokens:
        return [span]
    return long_pieces(text, num_tokens, max_tokens)


def long_pieces(
    text: str, num_tokens: Callable[[Sequence[str]], list[int]], max_tokens: int
) -> list[Span]:
    """`pieces` of a document that is known to have more than `max_tokens` tokens."""
    limit = max_tokens
    while True:  # a piece can have a few tokens more than its sentences have one by one
        cut = _cut(text, num_tokens, limit)
        excess = max(num_tokens([span.text for span in cut])) - max_tokens
        if excess <= 0 or limit - excess < 1:
            return cut
        limit -= excess


def _cut(
    text: str, num_tokens: Callable[[Sequence[str]], list[int]], max_tokens: int
) -> list[Span]:
    units, sizes = _short_units(sentences(text), text, num_tokens, max_tokens)
    cuts: list[tuple[int, int]] = []
    total = max_tokens + 1
    for (start, end), size in zip(units, sizes, strict=True):
        if total + size > max_tokens:
            cuts.append((start, end))
            total = size
        else:
            cuts[-1] = (cuts[-1][0], end)
            total += size
    return list(_spans(text, cuts))


def _short_units(
    units: list[tuple[int, int]],
    text: str,
    num_tokens: Callable[[Sequence[str]], list[int]],
    max_tokens: int,
) -> tuple[list[tuple[int, int]], list[int]]:
    """Halve, near a space, every unit that is too long by itself; (units, tokens of each)."""
    sizes = num_tokens([text[start:end] for start, end in units])
    while True:
        halves: list[tuple[int, int]] = []
        for (start, end), size in zip(units, sizes, strict=True):
            cut = _near_middle(text, start, end) if size > max_tokens and end - start > 1 else end
            halves += [(start, cut), (cut, end)] if cut < end else [(start, end)]
        if len(halves) == len(units):
            return units, sizes
        known = dict(zip(units, sizes, strict=True))
        new = [unit for unit in halves if unit not in known]
        known.update(zip(new, num_tokens([text[start:end] for start, end in new]), strict=True))
        units, sizes = halves, [known[unit] for unit in halves]


def _near_middle(text: str, start: int, end: int) -> int:
    """Where to halve: after a space at or behind the middle, else after one before it, else in a word."""
    middle = (start + end) // 2
    behind = text.find(" ", middle, end - 1)
    space = behind if behind >= 0 else text.rfind(" ", start + 1, middle)
    return space + 1 if space >= 0 else middle


def _within(units: list[tuple[int, int]], text: str, max_words: int) -> Iterator[tuple[int, int]]:
    """The units, the ones of more than `max_words` words cut between words."""
    for start, end in units:
        if _num_words(text[start:end]) <= max_words:
            yield start, end
            continue
        words = [match.start() + start for match in _WORD.finditer(text[start:end])]
        cuts = [start, *words[max_words::max_words], end]
        yield from pairwise(cuts)


def _num_words(text: str) -> int:
    return len(text.split())


def _spans(text: str, cuts: list[tuple[int, int]]) -> Iterator[Span]:
    """Byte spans of the cuts, white space around them left out; empty ones dropped."""
    seen_chars, seen_bytes = 0, 0
    for start, end in cuts:
        body = text[start:end]
        inner = body.strip()
        if not inner:
            continue
        first = start + len(body) - len(body.lstrip())
        seen_bytes += len(text[seen_chars:first].encode())
        num_bytes = len(inner.encode())
        yield Span(inner, seen_bytes, seen_bytes + num_bytes)
        seen_chars, seen_bytes = first + len(inner), seen_bytes + num_bytes
