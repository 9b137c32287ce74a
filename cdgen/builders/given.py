"""Checks of given tokenizers and models that need no loading: what does not fit is said before any work."""

import json
from pathlib import Path
from typing import Any

from cdgen.errors import UsageError
from cdgen.text.tokenizer import Tokenizer


def check_tokenizer(folder: Path, at: str) -> Tokenizer:
    """The tokenizer in a folder.

    Args:
        folder: with tokenizer.json.
        at: `file:line:column: field`, for messages.

    Raises:
        UsageError: it cannot be read, or has no end-of-text token: documents that follow one another in a stream
            could not be told apart, and no decoded document would ever end.
    """
    try:
        tokenizer = Tokenizer.load(folder)
    except UsageError as error:
        raise UsageError(f"{at}: {error}") from None
    if tokenizer.eos_id is None:
        raise UsageError(
            f"{at}: the tokenizer in {folder} has no end-of-text token, so documents would have no end; "
            "set eos_token in its tokenizer_config.json"
        )
    return tokenizer


def check_vocabulary(folder: Path, tokenizer: Tokenizer, at: str) -> None:
    """Whether a given model was made for the corpus's tokenizer, as far as its files tell.

    Raises:
        UsageError: it scores fewer tokens than the tokenizer has, or its own tokenizer gives ids other meanings.
    """
    entries = vocabulary_entries(folder)
    if entries is not None and entries < tokenizer.vocab_size:
        raise UsageError(
            f"{at}: the model has {entries} vocabulary entries and the corpus's tokenizer {tokenizer.vocab_size}; "
            "expert, amateur and tokenizer must share one vocabulary"
        )
    if not (folder / "tokenizer.json").is_file():
        return
    ours, theirs = tokenizer.vocabulary, Tokenizer.load(folder).vocabulary
    names = {number: token for token, number in ours.items()}
    other = sorted(number for token, number in theirs.items() if names.get(number, token) != token)
    if other:
        raise UsageError(
            f"{at}: {len(other)} tokens of the model's own tokenizer have other ids than the corpus's, first id "
            f"{other[0]}; expert, amateur and tokenizer must share one vocabulary"
        )


def check_layer(folder: Path, layer: int, at: str) -> None:
    """Whether a layer to leave a given expert by lies in its middle, as far as its files tell. Raises UsageError."""
    layers = config_number(folder, "num_hidden_layers")
    if layers is not None and layer >= layers:
        raise UsageError(
            f"{at}: must be below the expert's number of layers, found {layer} and {layers}"
        )


def vocabulary_entries(folder: Path) -> int | None:
    """How many tokens a model scores, by its config.json; None where that does not say."""
    return config_number(folder, "vocab_size")


def config_number(folder: Path, *names: str) -> int | None:
    """The first whole number under one of these names in config.json, or in its part about text."""
    config = read_config(folder)
    for part in (config, config.get("text_config")):
        for name in names:
            size = part.get(name) if isinstance(part, dict) else None
            if isinstance(size, int) and not isinstance(size, bool):
                return size
    return None


def read_config(folder: Path) -> dict[str, Any]:
    """config.json; empty where there is none that can be read."""
    try:
        config: Any = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}
