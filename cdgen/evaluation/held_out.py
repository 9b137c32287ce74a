"""Perplexity on a corpus's eval split, document by document.

The numbers are those of training (`cdgen.training.perplexity`): every token but the first once, in windows that
overlap by one token and run across documents. Here each document keeps its own, for the statistics.
"""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F
from transformers import PreTrainedModel

from cdgen.corpus import Corpus
from cdgen.decode.models import max_positions_of
from cdgen.errors import UsageError
from cdgen.evaluation.items import Item
from cdgen.evaluation.trie import Floats, Ints
from cdgen.shards.reader import MappedShard
from cdgen.text.tokenizer import Tokenizer

CONTEXT = 1024
"""Tokens a prediction may look back on, at most, as in the reference study; fewer where the model reads fewer."""
WINDOWS_PER_BATCH = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutText:
    """The eval split, one document after the other.

    Attributes:
        ids: of all documents, int32 `[tokens]`.
        ends: the token after each document.
        num_bytes: of each document's text.
        keys: their names in the corpus.
        digest: of the shards, and of the tokenizer where it is not the corpus's own.
    """

    ids: np.ndarray
    ends: Ints
    num_bytes: Ints
    keys: tuple[str, ...]
    digest: str


def read_held_out(corpus: Corpus, tokenizer_folder: Path) -> HeldOutText:
    """The eval split of a corpus, in the ids of a checkpoint's tokenizer.

    Raises:
        UsageError: the corpus has no eval split, or the tokenizer is another one that marks no ends.
    """
    entries = corpus.shards("real", "eval")
    if not entries:
        raise UsageError(
            f"{corpus.where}: has no eval split; build it with text.splits.eval above 0"
        )
    theirs = _another_tokenizer(corpus, tokenizer_folder)
    ids: list[np.ndarray] = []
    sizes, keys = [], []
    corpus.files.ahead(entries)
    for entry in entries:
        with MappedShard(corpus.files.shard(entry), corpus.files.index(entry)) as shard:
            for row in range(len(shard)):
                text = shard.text(row)
                own = shard.ids(row).astype(np.int32)
                ids.append(own if theirs is None else _encoded(theirs, text))
                sizes.append(len(text.encode()))
                keys.append(str(shard.row(row)["key"]))
    total = hashlib.sha256("\n".join(f"{one.name} {one.sha256}" for one in entries).encode())
    if theirs is not None:
        total.update((tokenizer_folder / "tokenizer.json").read_bytes())
    return HeldOutText(
        ids=np.concatenate(ids),
        ends=np.cumsum([len(one) for one in ids]),
        num_bytes=np.array(sizes, np.int64),
        keys=tuple(keys),
        digest=total.hexdigest(),
    )


def _another_tokenizer(corpus: Corpus, folder: Path) -> Tokenizer | None:
    """The checkpoint's tokenizer, where it is not the corpus's."""
    theirs = Tokenizer.load(folder)
    ours = Tokenizer.load(corpus.folder / "tokenizer")
    if theirs.vocabulary == ours.vocabulary:
        return None
    if theirs.eos_id is None:
        raise UsageError(
            f"{folder}: its tokenizer has no end-of-text token, so documents would have no end"
        )
    return theirs


def _encoded(tokenizer: Tokenizer, text: str) -> np.ndarray:
    (ids,) = tokenizer.encode([text])
    before = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    return np.array([*before, *ids, tokenizer.eos_id], np.int32)


def context_of(model: PreTrainedModel) -> int:
    """Tokens that a prediction looks back on, at most."""
    return min(max_positions_of(model) or CONTEXT, CONTEXT)


@torch.inference_mode()
def document_nats(
    model: PreTrainedModel, text: HeldOutText, advance: Callable[[int], object]
) -> Floats:
    """Minus the log-probability of each document in nats; the split's very first token has none.

    Args:
        model: in evaluation mode.
        text: the split.
        advance: told of windows as they are done.
    """
    nats = np.zeros(len(text.ids))
    context = context_of(model)
    starts = np.arange(0, len(text.ids) - 1, context)
    whole = starts[starts + context < len(text.ids)]
    batches = [whole[i : i + WINDOWS_PER_BATCH] for i in range(0, len(whole), WINDOWS_PER_BATCH)]
    batches += [starts[len(whole) :]] if len(whole) < len(starts) else []
    for some in batches:
        size = min(context + 1, len(text.ids) - int(some[0]))
        place_BT = some[:, None] + np.arange(size)
        ids_BT = torch.from_numpy(text.ids[place_BT].astype(np.int64)).to(model.device)
        logits_BTV = model(input_ids=ids_BT[:, :-1], use_cache=False).logits.float()
        found = F.cross_entropy(logits_BTV.flatten(0, 1), ids_BT[:, 1:].flatten(), reduction="none")
        nats[place_BT[:, 1:].ravel()] = found.double().cpu().numpy()
        advance(len(some))
    return np.add.reduceat(nats, np.concatenate([[0], text.ends[:-1]]))


def num_windows(model: PreTrainedModel, text: HeldOutText) -> int:
    """For a progress bar."""
    return math.ceil((len(text.ids) - 1) / context_of(model))


def document_items(text: HeldOutText) -> list[Item]:
    """One per document; inputs: tokens that are predicted, bytes."""
    tokens = np.diff(text.ends, prepend=0)
    tokens[0] -= 1
    return [
        Item(part="eval", name=key, options=(), inputs=(float(n), float(size)))
        for key, n, size in zip(text.keys, tokens, text.num_bytes, strict=True)
    ]


def bits_per_byte(nats: Floats, text: HeldOutText) -> dict[str, Any]:
    """What results.json says beside the perplexity."""
    return {
        "bits_per_byte": float(nats.sum() / math.log(2) / text.num_bytes.sum()),
        "tokens": len(text.ids) - 1,
    }
