"""The card of a corpus (README.md): what the Hugging Face Hub and `datasets` read, and people too.

The configurations are explicit and the features pinned: without them loaders infer types from the first few samples,
and what differs later is lost.
"""

from collections.abc import Iterable
from typing import Any

import yaml

from cdgen.shards.layout import KINDS
from cdgen.shards.manifest import Manifest
from cdgen.shards.sample import FEATURES
from cdgen.shards.verdicts import REASONS

_DEFAULT = "mixed"


class _Dumper(yaml.SafeDumper):
    """Writes every value out: not every reader of cards knows YAML's aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def card(manifest: Manifest, *, dtype: str, description: str = "") -> str:
    """The card's Markdown.

    Args:
        manifest: of the finished corpus.
        dtype: of the token ids: uint16 or uint32.
        description: the recipe's.
    """
    header = yaml.safe_dump(
        _header(manifest, dtype), sort_keys=False, allow_unicode=True, width=1000
    )
    return f"---\n{header}---\n\n{_body(manifest, description)}"


def _header(manifest: Manifest, dtype: str) -> dict[str, Any]:
    kinds = [kind for kind in KINDS if any(shard.kind == kind for shard in manifest.shards)]
    return {
        "pretty_name": manifest.name,
        "tags": ["webdataset", "text", "synthetic", "cdgen", "contrastive-decoding"],
        "task_categories": ["text-generation"],
        "configs": [_config(manifest, kind) for kind in reversed(kinds)],
        "dataset_info": [
            {"config_name": kind, "features": FEATURES[dtype]} for kind in reversed(kinds)
        ],
    }


def _config(manifest: Manifest, kind: str) -> dict[str, Any]:
    splits = sorted({shard.split for shard in manifest.shards if shard.kind == kind}, reverse=True)
    files = []
    for split in splits:
        digests = dict.fromkeys(
            s.name.split("-")[2] for s in manifest.shards if (s.kind, s.split) == (kind, split)
        )
        paths = [f"data/{kind}/{kind}-{split}-{digest}-*.tar" for digest in digests]
        name = "validation" if split == "eval" else split
        files.append({"split": name, "path": paths if len(paths) > 1 else paths[0]})
    default = {"default": True} if kind == _DEFAULT else {}
    return {"config_name": kind, **default, "data_files": files}


def _body(manifest: Manifest, description: str) -> str:
    parts = [
        f"# {manifest.name}\n",
        description.strip() + "\n" if description.strip() else "",
        _mix(manifest),
    ]
    parts.append(_table(("kind", "documents", "tokens", "shards"), _kind_rows(manifest)))
    parts.append("Real text:\n")
    rows = (
        (s.name, s.license, f"{s.num_documents:,}", f"{s.num_tokens:,}") for s in manifest.sources
    )
    parts.append(_table(("source", "licence", "train documents", "train tokens"), rows))
    parts.append(_contamination(manifest))
    parts.append(
        "Synthetic text was drawn by contrastive decoding ([arXiv 2510.08245](https://arxiv.org/abs/2510.08245)) with "
        "cdgen; every sample's `json` member says from which document, which models and which random key.\n\n"
        f"Manifest digest: `{manifest.digest}`\n"
    )
    return "\n".join(part for part in parts if part)


def _mix(manifest: Manifest) -> str:
    if manifest.mix is None:
        return ""
    mix = manifest.mix
    counted = "" if mix.unit == "tokens" else f" of {mix.unit}"
    head = (
        f"{mix.num_real_tokens:,} real and {mix.num_synthetic_tokens:,} synthetic tokens: "
        f"{mix.realised:.4%} synthetic{counted}, {mix.nominal:.4%} asked for.\n"
    )
    return head + "".join(f"\n{line}\n" for line in _mix_notes(manifest))


def _mix_notes(manifest: Manifest) -> Iterable[str]:
    """What is not plain about a mix: repeats, filters, text of other corpora."""
    parts = manifest.mix.parts if manifest.mix else ()
    for part in parts:
        if part.num_passes > 1:
            yield f"Documents of the {part.source} text are used up to {part.num_passes} times."
    if manifest.filters is not None:
        dropped = ", ".join(f"{manifest.dropped.get(name, 0):,} by {name}" for name in REASONS)
        yield f"Filters keep synthetic documents out of the mix: {dropped}."
    for also in manifest.also:
        share = next((part.realised for part in parts if part.source == also.label), 0.0)
        decode = also.digests.get("decode", "")[:16]
        yield f"{share:.4%} is text that the corpus {also.name} decoded (`{decode}`)."


_CONTAMINATION_ACTIONS = {
    "drop": "Synthetic documents that hold an item are not in the mix.",
    "flag": "**Careful: these documents are in the mix.**",
    "keep": "These documents are in the mix.",
}


def _contamination(manifest: Manifest) -> str:
    """How much text holds items of evaluation sets."""
    searched = manifest.filters.contamination if manifest.filters else None
    if searched is None:
        return ""
    rows = (
        (one.name, *(f"{n:,}" for n in (one.num_items, one.num_real, one.num_synthetic)))
        for one in searched.sets
    )
    head = ("evaluation set", "items", "real documents", "synthetic documents")
    return (
        f"Train documents that hold {searched.ngram} words in a row of an evaluation item, or a shorter item whole. "
        f"{_CONTAMINATION_ACTIONS[searched.action]}\n\n{_table(head, rows)}"
    )


def _kind_rows(manifest: Manifest) -> Iterable[tuple[str, ...]]:
    for name, totals in sorted(manifest.totals.items()):
        yield name, *(f"{totals[count]:,}" for count in ("num_samples", "num_tokens", "num_shards"))


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
