"""Models and tokenizers of the Hugging Face Hub, at one commit, as local folders.

Only what is loaded without running code is downloaded: safetensors weights, JSON, tokenizer files. Their content is
hashed afterwards like that of a given folder, so a digest says what was loaded, not what a name meant.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cdgen.errors import UsageError
from cdgen.recipes.schema import HubModel

WEIGHTS = ("*.safetensors", "model.safetensors.index.json", "config.json", "generation_config.json")
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
SMALL = (*TOKENIZER, "config.json")


def snapshot(hub: HubModel, at: str, *, weights: bool) -> Path:
    """The folder of a Hub model's files, downloaded into huggingface_hub's cache where they are not in it.

    Args:
        hub: the model and its commit.
        at: `file:line:column: field`, for messages.
        weights: whether weights are wanted besides the tokenizer and config.json.

    Raises:
        UsageError: no such model or commit, no access, no connection, a download that was cut.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined] # public, untyped

    if not sys.stderr.isatty():
        disable_progress_bars()
    what = f"{at}: {hub.model}@{hub.revision[:8]}"
    with asking_the_hub(what):
        folder = snapshot_download(
            hub.model,
            revision=hub.revision,
            allow_patterns=[*SMALL, *(WEIGHTS if weights else ())],
            ignore_patterns=["*/*"],  # a pattern's * matches folders too: other formats lie in them
        )
    advice = " in the cache; connect to the Hub and try again"
    check_complete(Path(folder), what, advice)
    return Path(folder)


@contextmanager
def asking_the_hub(what: str) -> Iterator[None]:
    """Whatever goes wrong inside is a UsageError that begins with `what`."""
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield
    except GatedRepoError:
        why = "is gated; accept its terms on the Hub and log in with `hf auth login`"
    except RevisionNotFoundError:
        why = "the model has no such commit; copy the full sha from its page on the Hub"
    except RepositoryNotFoundError:
        why = "no such model on the Hub, or a private one; check its id, or log in with `hf auth login`"
    except LocalEntryNotFoundError:
        why = (
            "is not in the cache and the Hub cannot be reached; connect, or give a folder with path"
        )
    except OfflineModeIsEnabled:
        why = "HF_HUB_OFFLINE is set; unset it, or give a folder"
    except Exception as error:  # noqa: BLE001 - a network can raise anything
        said = " ".join(str(error).split("\n")[0].split())[:200] or type(error).__name__
        why = f"cannot be downloaded: {said}; try again, or give a folder with path"
    else:
        return
    raise UsageError(f"{what}: {why}")


def check_complete(folder: Path, what: str, advice: str = "") -> None:
    """Whether all weights are there that the list in the folder names: what was cut can look like a whole one.

    Args:
        folder: with the files.
        what: begins the message.
        advice: ends it.

    Raises:
        UsageError: one is missing, or the list cannot be read.
    """
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        raise UsageError(f"{what}: its model.safetensors.index.json is not readable") from None
    missing = sorted(str(name) for name in names if not (folder / str(name)).is_file())
    if missing:
        raise UsageError(
            f"{what}: {missing[0]} and {len(missing) - 1} more files are missing{advice}"
        )
