"""N-gram counts of the train split: made once per text and order, kept in the cache, measured on the eval split."""

import json
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from cdgen.builders.model_stage import Model
from cdgen.builders.stages import Build, TextRecord, mapped
from cdgen.decode import ngram
from cdgen.recipes.digests import ngram_digest
from cdgen.storage import Receipt, atomic_write, canonical_json, sha256_file

MEASURE = "measure.json"


def counted(build: Build, record: TextRecord, order: int) -> Model:
    """The counts of a build's train split: from the cache, or counted now.

    Whole numbers, so the same on every machine: there is no numeric class in the cache's key.
    """
    folder = build.cache / "ngrams" / ngram_digest(build.digests.text, order)[:32]
    if not (folder / MEASURE).is_file():
        with build.progress.stage("count n-grams", total=None, unit="order"):
            levels = ngram.count(_tokens(build, record.split("train")), order)
            ngram.save(levels, folder)
            atomic_write(folder / MEASURE, canonical_json(_measure(build, record, levels)))
    measured = json.loads((folder / MEASURE).read_text(encoding="utf-8"))
    return Model(folder=folder, step=0, sha256=sha256_file(folder / ngram.FILE), **measured)


def _tokens(build: Build, receipts: Sequence[Receipt]) -> npt.NDArray[np.integer]:
    """All ids of a split, documents one after another, as trainers read them."""
    ids: list[npt.NDArray[np.integer]] = []
    for receipt in receipts:
        with mapped(build.out, receipt) as shard:
            ids += [shard.ids(row).copy() for row in range(len(shard))]
    return np.concatenate(ids) if ids else np.empty(0, np.uint16)


def _measure(
    build: Build, record: TextRecord, levels: list[ngram.Level]
) -> dict[str, float | None]:
    """Perplexity and bits per byte of the eval split, every token but the first."""
    text_N = _tokens(build, record.split("eval"))
    if len(text_N) < 2:
        return {"perplexity": None, "bits_per_byte": None}
    vocab_size = 1 + max(int(text_N.max()), int(levels[0].token_K.max()))
    logp_N = ngram.NgramModel(levels, vocab_size=vocab_size).token_logp(text_N)[1:]
    num_bytes = sum(receipt.num_text_bytes for receipt in record.split("eval"))
    return {
        "perplexity": math.exp(-float(logp_N.mean())),
        "bits_per_byte": -float(logp_N.sum()) / math.log(2) / num_bytes,
    }
