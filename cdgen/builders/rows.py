"""From decoded rows to samples: a row that runs past end-of-text is several documents (design of the contract).

A row is cut only after EOS. The first part keeps the prefix, or begins with BOS alone; later parts begin with BOS,
inserted where the model did not draw it. A part without text is dropped and counted.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from cdgen.builders.prefixes import Prefix
from cdgen.shards.sample import Meta, Sample, id_dtype, synthetic_key
from cdgen.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """What one row drew: each `[T]`, T tokens as far as the row goes."""

    ids: np.ndarray
    logp_expert: np.ndarray
    logp_amateur: np.ndarray
    head_size: np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a row comes from: the same for all of its parts."""

    prefix: Prefix
    completion: int
    rng_key: str
    expert: str
    amateur: str
    decode: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One document of a row: its ids, and which drawn tokens [first, last) it holds."""

    ids: np.ndarray
    first: int
    last: int
    prefix_tokens: int
    bos_inserted: bool
    truncated: bool


def parts(
    prefix_ids: np.ndarray, drawn_ids: np.ndarray, tokenizer: Tokenizer, *, keep_prefix: bool
) -> Iterator[Part]:
    """Cut a row's drawn tokens after each EOS.

    Args:
        prefix_ids: `[P]`, BOS first where the tokenizer has one.
        drawn_ids: `[T]`.
        tokenizer: for BOS and EOS.
        keep_prefix: whether the first part begins with the prefix.
    """
    bos = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    ends = (
        []
        if tokenizer.eos_id is None
        else (np.flatnonzero(drawn_ids == tokenizer.eos_id) + 1).tolist()
    )
    if not ends or ends[-1] < len(drawn_ids):
        ends.append(len(drawn_ids))
    for first, last in zip([0, *ends], ends, strict=False):
        body = drawn_ids[first:last]
        kept = prefix_ids if first == 0 and keep_prefix else np.empty(0, np.int64)
        start = kept if len(kept) else body
        insert = bos if bos and start[0] != bos[0] else []
        yield Part(
            ids=np.concatenate([insert, kept, body]).astype(np.int64),
            first=first,
            last=last,
            prefix_tokens=len(kept),
            bos_inserted=bool(insert),
            truncated=tokenizer.eos_id is None or body[-1] != tokenizer.eos_id,
        )


def row_samples(
    drawn: Drawn, origin: Origin, tokenizer: Tokenizer, *, keep_prefix: bool
) -> tuple[list[Sample], int]:
    """(the samples of one row, how many of its parts had no text)."""
    cut = list(parts(origin.prefix.ids, drawn.ids, tokenizer, keep_prefix=keep_prefix))
    texts = tokenizer.decode([part.ids for part in cut])
    samples = [
        _sample(part, number, text, drawn=drawn, origin=origin, tokenizer=tokenizer)
        for number, (part, text) in enumerate(zip(cut, texts, strict=True))
        if text.strip()
    ]
    return samples, len(cut) - len(samples)


def _sample(
    part: Part, number: int, text: str, *, drawn: Drawn, origin: Origin, tokenizer: Tokenizer
) -> Sample:
    prefix = origin.prefix
    tokens = slice(part.first, part.last)
    meta = Meta(
        source="synthetic",
        origin=prefix.source,
        license=prefix.license,
        document=prefix.document,
        start=prefix.start,
        end=prefix.end,
        split="train",
        num_tokens=len(part.ids),
        prefix_tokens=part.prefix_tokens,
        completion=origin.completion,
        part=number,
        truncated=bool(part.truncated),
        bos_inserted=part.bos_inserted,
        expert=origin.expert,
        amateur=origin.amateur,
        decode=origin.decode,
        rng_key=origin.rng_key,
        mean_logp_expert=float(drawn.logp_expert[tokens].mean(dtype=np.float64)),
        mean_logp_amateur=float(drawn.logp_amateur[tokens].mean(dtype=np.float64)),
        mean_head_size=float(drawn.head_size[tokens].mean(dtype=np.float64)),
        head_of_one_share=float((drawn.head_size[tokens] == 1).mean(dtype=np.float64)),
    )
    key = synthetic_key(prefix.document, prefix.chunk, origin.completion, number)
    return Sample(
        key=key, text=text, ids=part.ids.astype(id_dtype(tokenizer.vocab_size)), meta=meta
    )
