"""What a corpus holds, in numbers: what `cdgen stats` prints and draws.

Lengths, heads and probabilities come from the indexes alone; diversity, repetition and copying read token ids. Cost:
some columns of each document and the ids of each token that is read. Of large corpora evenly spread shards are read,
and the notes say how many: up to MAX_DOCUMENTS documents and `max_tokens` tokens of each source, at least one shard.
The numbers are the same everywhere; nothing is drawn at random.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cdgen.corpus import Corpus
from cdgen.errors import UsageError
from cdgen.mixing.copying import Copied, copying
from cdgen.reports.built import Built, how_built
from cdgen.reports.diversity import distinct, self_bleu
from cdgen.reports.selection import (
    MAX_DOCUMENTS,
    MAX_TOKENS,
    Group,
    Text,
    groups,
    numbers,
    read_text,
    spread,
)
from cdgen.shards.manifest import ContaminationInfo, Mix, SourceInfo
from cdgen.shards.repetition import repetition
from cdgen.shards.sample import Meta
from cdgen.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from cdgen.builders.trace import Step

DIVERSITY_TOKENS = 1_000_000
"""Of each source, at most, in which n-grams are counted."""
BLEU_DOCUMENTS, BLEU_TOKENS = 500, 32
"""Documents of each source, at most, and tokens from the middle of each."""
POINTS = 1_500
"""Documents of each source in the plot of both log-probabilities."""
BINS = 32
SHOWN_CHARACTERS = 1_200

Values = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """How a number is spread over documents.

    Attributes:
        mean: over documents.
        quantiles: smallest, 10th, 50th, 90th percentile, largest; each is the number of some document.
        counts: documents by bin of the histogram.
    """

    mean: float
    quantiles: tuple[float, float, float, float, float]
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """How synthetic documents were drawn; logarithms are natural, means per document over its drawn tokens.

    Attributes:
        logp_expert, logp_amateur: mean over all drawn tokens; None without an amateur.
        heads: mean size of the head.
        head_of_one_share: of all drawn tokens: the head held one token.
        points: (amateur's, expert's) mean of some documents; none without an amateur.
    """

    logp_expert: float
    logp_amateur: float | None
    heads: Spread
    head_of_one_share: float
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceNumbers:
    """One source of the train text: real, synthetic, or also-<8 digits>.

    Attributes:
        documents_read, tokens_read: how much of it was read: in the indexes, and as token ids.
        lengths: tokens of a document.
        repeated: share of a document's tokens in 4-grams that stood earlier in it.
        distinct: share of different n-grams, n from 1 to 4; without prefixes.
        self_bleu: of pieces of documents against each other; None where too few are long enough.
    """

    label: str
    num_documents: int
    num_tokens: int
    documents_read: int
    tokens_read: int
    lengths: Spread
    drawing: Drawing | None
    repeated: Spread
    distinct: tuple[float, ...]
    self_bleu: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A document to look at: its text, up to SHOWN_CHARACTERS, and where it comes from."""

    label: str
    key: str
    prefix: str
    """What a synthetic one continues; its text goes on from there."""
    text: str
    is_cut: bool
    meta: Meta


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """What both models thought of the tokens at one distance from the prefix, mean over rows."""

    position: int
    num_rows: int
    logp_expert: float
    logp_amateur: float | None
    head_size: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """All numbers of the report.

    Attributes:
        edges: of the bins of every histogram, by what is counted: lengths, heads, repeated.
        diversity_tokens: in which n-grams were counted, of each source.
        bleu_documents: that were compared, of each source.
        copied: None where there is no synthetic or no real text.
        positions: empty where no row was decoded again.
    """

    name: str
    manifest_digest: str
    digests: dict[str, str]
    totals: dict[str, dict[str, int]]
    texts: tuple[SourceInfo, ...]
    mix: Mix | None
    dropped: dict[str, int]
    sources: tuple[SourceNumbers, ...]
    edges: dict[str, tuple[float, ...]]
    diversity_tokens: int
    bleu_documents: int
    copied: tuple[Copied, ...] | None
    contamination: ContaminationInfo | None
    positions: tuple[Position, ...]
    built: Built | None
    samples: tuple[Shown, ...]

    def notes(self) -> Iterator[str]:
        """What was read in part or left out, and why."""
        for one in self.sources:
            for what, read, of in (
                ("documents are in the indexes", one.documents_read, one.num_documents),
                ("tokens are in the text", one.tokens_read, one.num_tokens),
            ):
                if read < of:
                    yield f"{one.label}: {read:,} of {of:,} {what} that was read: evenly spread shards"
        if self.copied is not None and any(
            one.label == "real" and one.tokens_read < one.num_tokens for one in self.sources
        ):
            yield "copying: what is copied from the real text that was not read is not counted"
        if self.bleu_documents < 2:
            yield f"self-BLEU: left out: not every source has two documents of {BLEU_TOKENS} tokens without prefix"
        if self.copied is None:
            yield "copying: left out: the corpus has no synthetic or no real train text"
        if self.contamination is None:
            yield "contamination: no evaluation set was searched for (filters.contamination in the recipe)"
        if not self.positions:
            yield "contrast by position: left out: no row was decoded again (--replay N, where the models are)"
        if self.built is None:
            yield "build: left out: its events are not here; they stay where it was built"


def statistics(
    corpus: Corpus,
    *,
    num_samples: int = 4,
    positions: Sequence[Position] = (),
    events: Iterable[Mapping[str, Any]] = (),
    max_tokens: int = MAX_TOKENS,
) -> Statistics:
    """Count everything.

    Args:
        corpus: a finished one.
        num_samples: documents of each source to show.
        positions: of rows that were decoded again.
        events: of its build, where they are known.
        max_tokens: of each source whose ids are read, about.

    Raises:
        UsageError: the corpus has no train text.
        BuildError: a file is missing or damaged.
    """
    manifest = corpus.manifest
    every = groups(manifest)
    if not every:
        raise UsageError(f"{corpus.where}: has no train text to report on")
    tables = [
        numbers(corpus, spread(group.shards, group.num_documents, MAX_DOCUMENTS)) for group in every
    ]
    texts = [read_text(corpus, spread(g.shards, g.num_tokens, max_tokens)) for g in every]
    edges = _edges(tables, every)
    budget = min(DIVERSITY_TOKENS, *(_num_drawn(text) for text in texts))
    pieces = _pieces(texts)
    sources = tuple(
        SourceNumbers(
            label=group.label,
            num_documents=group.num_documents,
            num_tokens=group.num_tokens,
            documents_read=len(table["num_tokens"]),
            tokens_read=len(text.ids),
            lengths=_spread(table["num_tokens"], edges["lengths"]),
            drawing=None if group.is_real else _drawing(table, group, edges["heads"]),
            repeated=_spread(repetition(text.ids, text.num_tokens), edges["repeated"]),
            distinct=distinct(*_drawn_tokens(text, budget)),
            self_bleu=self_bleu(some),
        )
        for group, table, text, some in zip(every, tables, texts, pieces, strict=True)
    )
    return Statistics(
        name=manifest.name,
        manifest_digest=manifest.digest,
        digests=manifest.digests,
        totals=manifest.totals,
        texts=manifest.sources,
        mix=manifest.mix,
        dropped=manifest.dropped,
        sources=sources,
        edges={name: tuple(values.tolist()) for name, values in edges.items()},
        diversity_tokens=budget,
        bleu_documents=len(pieces[0]),
        copied=_copied(every, texts),
        contamination=manifest.filters.contamination if manifest.filters else None,
        positions=tuple(positions),
        built=how_built(events),
        samples=_samples(corpus, every, texts, num_samples),
    )


def by_position(rows: Sequence[Sequence["Step"]]) -> tuple[Position, ...]:
    """Means over the rows that are so long."""
    longest = max((len(steps) for steps in rows), default=0)
    return tuple(
        _position(t, [steps[t] for steps in rows if t < len(steps)]) for t in range(longest)
    )


def _position(t: int, steps: Sequence["Step"]) -> Position:
    amateur = [step.logp_amateur for step in steps if step.logp_amateur is not None]
    return Position(
        position=t,
        num_rows=len(steps),
        logp_expert=sum(step.logp_expert for step in steps) / len(steps),
        logp_amateur=sum(amateur) / len(amateur) if amateur else None,
        head_size=sum(step.head_size for step in steps) / len(steps),
    )


# ---- from the indexes ----


def _edges(tables: Sequence[Mapping[str, Values]], every: Sequence[Group]) -> dict[str, Values]:
    """Bins that all sources share, so that they can be laid over each other."""
    drawn = [
        t["mean_head_size"] for t, group in zip(tables, every, strict=True) if not group.is_real
    ]
    return {
        "lengths": _log_edges(np.concatenate([table["num_tokens"] for table in tables])),
        "heads": _log_edges(np.concatenate(drawn or [np.ones(1)])),
        "repeated": np.linspace(0.0, 1.0, BINS + 1),
    }


def _log_edges(values: Values) -> Values:
    low, high = max(float(values.min()), 1.0), float(values.max())
    return np.geomspace(low, max(high, low * 2), BINS + 1)


def _spread(values: Values, edges: Values) -> Spread:
    quantiles = np.quantile(values, (0.0, 0.1, 0.5, 0.9, 1.0), method="inverted_cdf").tolist()
    counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
    return Spread(
        mean=float(values.mean()), quantiles=tuple(quantiles), counts=tuple(counts.tolist())
    )


def _drawing(table: Mapping[str, Values], group: Group, edges: Values) -> Drawing:
    weights = (table["num_tokens"] - table["prefix_tokens"]).astype(np.float64)

    def mean(name: str) -> float:
        return float((table[name] * weights).sum() / max(weights.sum(), 1.0))

    count = min(POINTS, len(weights)) if group.has_amateur else 0
    rows = np.arange(count) * len(weights) // max(count, 1)
    pairs = (table[f"mean_logp_{who}"][rows].tolist() for who in ("amateur", "expert"))
    return Drawing(
        logp_expert=mean("mean_logp_expert"),
        logp_amateur=mean("mean_logp_amateur") if group.has_amateur else None,
        heads=_spread(table["mean_head_size"], edges),
        head_of_one_share=mean("head_of_one_share"),
        points=tuple(zip(*pairs, strict=True)),
    )


# ---- from token ids ----


def _num_drawn(text: Text) -> int:
    return int((text.num_tokens - text.num_prefix).sum())


def _drawn_tokens(text: Text, budget: int) -> tuple[np.ndarray, npt.NDArray[np.int64]]:
    """(ids, tokens of each document) of so many tokens without prefixes, from documents in a shuffled order."""
    parts: list[np.ndarray] = []
    for document in text.shuffled():
        if budget <= 0:
            break
        parts.append(text.drawn(int(document))[:budget])
        budget -= len(parts[-1])
    return np.concatenate([text.ids[:0], *parts]), np.array([len(part) for part in parts], np.int64)


def _pieces(texts: Sequence[Text]) -> list[list[np.ndarray]]:
    """Of each source as many pieces of BLEU_TOKENS tokens, from the middle of documents in a shuffled order."""
    every = [list(_middles(text)) for text in texts]
    count = min(len(pieces) for pieces in every)
    return [pieces[:count] for pieces in every]


def _middles(text: Text) -> list[np.ndarray]:
    pieces = []
    for document in text.shuffled():
        drawn = text.drawn(int(document))
        begin = (len(drawn) - BLEU_TOKENS) // 2
        if begin >= 0:
            pieces.append(drawn[begin : begin + BLEU_TOKENS])
        if len(pieces) == BLEU_DOCUMENTS:
            break
    return pieces


def _copied(every: Sequence[Group], texts: Sequence[Text]) -> tuple[Copied, ...] | None:
    real = [s for g, text in zip(every, texts, strict=True) if g.is_real for s in text.shards]
    drawn = [s for g, text in zip(every, texts, strict=True) if not g.is_real for s in text.shards]
    return copying(drawn, real) if real and drawn else None


# ---- documents to look at ----


def _samples(
    corpus: Corpus, every: Sequence[Group], texts: Sequence[Text], count: int
) -> tuple[Shown, ...]:
    tokenizer = Tokenizer.load(corpus.folder / "tokenizer")
    return tuple(
        _shown(group.label, text, int(document), tokenizer)
        for group, text in zip(every, texts, strict=True)
        for document in text.shuffled()[:count]
    )


def _shown(label: str, text: Text, document: int, tokenizer: Tokenizer) -> Shown:
    number, row = text.rows[document]
    sample = text.shards[number].sample(row)
    prefix = tokenizer.decode([sample.ids[: sample.meta.prefix_tokens]])[0]
    if not sample.text.startswith(prefix):  # cut inside a character
        prefix = ""
    rest = sample.text[len(prefix) :]
    return Shown(
        label=label,
        key=sample.key,
        prefix=prefix,
        text=rest if len(rest) <= SHOWN_CHARACTERS else _up_to_a_word(rest[:SHOWN_CHARACTERS]),
        is_cut=len(rest) > SHOWN_CHARACTERS,
        meta=sample.meta,
    )


def _up_to_a_word(text: str) -> str:
    """Without a last word that may be cut; as it is where words are not told by spaces."""
    return (
        text[: text.rfind(" ", len(text) // 2)].rstrip() if " " in text[len(text) // 2 :] else text
    )
