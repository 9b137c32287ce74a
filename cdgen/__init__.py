"""cdgen: synthetic pre-training corpora made by contrastive decoding.

A recipe is a pure function from its inputs to a corpus; a builder decides only where and how fast.
Names are imported when they are first used: `import cdgen` loads neither torch nor transformers.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from cdgen.builders.plan import plan
    from cdgen.builders.remix import mix
    from cdgen.builders.remove import remove
    from cdgen.builders.run import build
    from cdgen.builders.train import train
    from cdgen.corpus import Corpus, open_corpus
    from cdgen.hub.publish import publish
    from cdgen.recipes.load import load_recipe
    from cdgen.recipes.runs import load_run
    from cdgen.streaming.open import blocks, stream

__all__ = [
    "Corpus",
    "blocks",
    "build",
    "load_recipe",
    "load_run",
    "mix",
    "open_corpus",
    "plan",
    "publish",
    "remove",
    "stream",
    "train",
]

_HOMES = {
    "Corpus": "cdgen.corpus",
    "blocks": "cdgen.streaming.open",
    "build": "cdgen.builders.run",
    "load_recipe": "cdgen.recipes.load",
    "load_run": "cdgen.recipes.runs",
    "mix": "cdgen.builders.remix",
    "open_corpus": "cdgen.corpus",
    "plan": "cdgen.builders.plan",
    "publish": "cdgen.hub.publish",
    "remove": "cdgen.builders.remove",
    "stream": "cdgen.streaming.open",
    "train": "cdgen.builders.train",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'cdgen' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
