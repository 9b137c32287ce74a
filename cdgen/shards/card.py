"""The card of a corpus (README.md): what the Hugging Face Hub and `datasets` read, and people too.

The configurations are explicit and the features pinned: without them loaders infer types from the first few samples,
and what differs later is lost.
"""

import re
from typing import Any

import yaml

from cdgen.recipes.licensing import HUB_IDS
from cdgen.recipes.schema import Recipe
from cdgen.shards.card_text import body
from cdgen.shards.layout import KINDS
from cdgen.shards.lock import Lock
from cdgen.shards.manifest import Manifest
from cdgen.shards.markdown import visible
from cdgen.shards.sample import FEATURES

_DEFAULT = "mixed"
_TAGS = ("webdataset", "datasets", "text", "synthetic", "cdgen", "contrastive-decoding")
PAPER = "arxiv:2510.08245"
_SIZES = (
    *((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M")),
    *((10**7, "1M<n<10M"), (10**8, "10M<n<100M"), (10**9, "100M<n<1B"), (10**10, "1B<n<10B")),
    *((10**11, "10B<n<100B"), (10**12, "100B<n<1T")),
)
"""The Hub's categories by the number of rows that they end before."""


MIRROR = """
The configurations read the Parquet files in `parquet/`: the same samples in the same order, with the same columns, as
the Hub's viewer, SQL and data frames want them. `webdataset` and cdgen read the tars in `data/`.
"""
"""What a card says of a Parquet mirror, after how the corpus is loaded."""
_SHARDS = re.compile(r"(?m)^(\s+(?:path:|-) )data/(\w+/\S+-\*)\.tar$")
"""A line of the header that names the shards of a split."""


class _Dumper(yaml.SafeDumper):
    """Writes every value out: not every reader of cards knows YAML's aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def card(manifest: Manifest, recipe: Recipe, lock: Lock, *, dtype: str) -> str:
    """The card's Markdown.

    Args:
        manifest: of the finished corpus.
        recipe: that it was built by.
        lock: its inputs' hashes.
        dtype: of the token ids: uint16 or uint32.
    """
    header = yaml.dump(
        _header(manifest, recipe, dtype),
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        width=1000,
    )
    return f"---\n{header}---\n\n{body(manifest, recipe, lock, _kinds(manifest))}"


def mirrored_card(card: str) -> str:
    """A corpus's card whose configurations name the Parquet mirror in place of the shards; the rest stays.

    All of them, or none: `datasets` reads every configuration of a repository as it reads the first one.

    Raises:
        ValueError: the card has no header, or one that names no shards.
    """
    parts = card.split("---\n", 2)
    if len(parts) < 3 or parts[0]:
        raise ValueError("it has no header")
    _, header, text = parts
    header, count = _SHARDS.subn(r"\1parquet/\2.parquet", header)
    if not count:
        raise ValueError("its header names no shards")
    before, title, after = text.partition("\n## What it holds\n")
    return f"---\n{header}---\n{before}{MIRROR}{title}{after}"


def _kinds(manifest: Manifest) -> list[str]:
    """The kinds of its shards, the default configuration first."""
    return [kind for kind in reversed(KINDS) if any(s.kind == kind for s in manifest.shards)]


def _header(manifest: Manifest, recipe: Recipe, dtype: str) -> dict[str, Any]:
    kinds = _kinds(manifest)
    languages = dict.fromkeys(source.language for source in recipe.text.sources if source.language)
    bases = dict.fromkeys(source.hf.dataset for source in recipe.text.sources if source.hf)
    return {
        "pretty_name": visible(manifest.name),
        **_license(manifest.license),
        **({"language": list(languages)} if languages else {}),
        "tags": [*_TAGS, PAPER],
        "task_categories": ["text-generation"],
        "annotations_creators": ["machine-generated"],
        **({"source_datasets": list(bases)} if bases else {}),
        "size_categories": [_size(manifest, kinds)],
        "configs": [_config(manifest, kind) for kind in kinds],
        "dataset_info": [{"config_name": kind, "features": FEATURES[dtype]} for kind in kinds],
    }


def _license(expression: str) -> dict[str, str]:
    """The licence in the Hub's words."""
    if not expression:
        return {"license": "unknown"}
    if expression in HUB_IDS:
        return {"license": HUB_IDS[expression]}
    named = {"license": "other", "license_name": expression}
    single = " " not in expression and not expression.startswith("LicenseRef-")
    link = {"license_link": f"https://spdx.org/licenses/{expression}.html"} if single else {}
    return named | link


def _size(manifest: Manifest, kinds: list[str]) -> str:
    """The category of the documents that the default configuration has."""
    rows = sum(shard.num_samples for shard in manifest.shards if shard.kind in kinds[:1])
    return next((name for end, name in _SIZES if rows < end), "n>1T")


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
