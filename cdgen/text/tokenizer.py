"""The tokenizer: trained on the train split, or given as a folder with tokenizer.json.

The `tokenizers` library does the work; special tokens are placed here, explicitly: BOS before every document
where the tokenizer has one, EOS after a document that ended. Nothing is added by the library itself.
"""

import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from threading import Lock
from typing import Any, Self

import numpy as np
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from cdgen.errors import UsageError
from cdgen.recipes.schema import TokenizerTraining
from cdgen.text.words import WordTable, fits

BOS, EOS = "<s>", "</s>"
FILES = ("tokenizer.json", "tokenizer_config.json")


class Tokenizer:
    """Text to token ids and back.

    Attributes:
        bos_id: id of the begin-of-text token, or None.
        eos_id: id of the end-of-text token, or None.
        vocab_size: number of ids, special tokens included.
        backend: the library's own tokenizer.
    """

    def __init__(self, backend: Backend, *, bos: str | None, eos: str | None) -> None:
        # A text that spells a special token is text: only its end may be marked as an end.
        backend.encode_special_tokens = True
        self.backend = backend
        self._lock = Lock()
        self.bos_id = None if bos is None else backend.token_to_id(bos)
        self.eos_id = None if eos is None else backend.token_to_id(eos)
        self.vocab_size = backend.get_vocab_size(with_added_tokens=True)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read a tokenizer folder.

        Raises:
            UsageError: no tokenizer.json there, or not one that the `tokenizers` library reads.
        """
        file = folder / "tokenizer.json"
        if not file.is_file():
            raise UsageError(
                f"{folder}: no tokenizer.json; save a fast tokenizer there with AutoTokenizer(…).save_pretrained"
            )
        try:
            backend = Backend.from_str(file.read_text(encoding="utf-8"))
        except Exception as error:  # noqa: BLE001 - the library raises nothing narrower
            raise UsageError(
                f"{file}: not a tokenizer that the tokenizers library reads: {error}"
            ) from None
        config = _config(folder / "tokenizer_config.json")
        special = {role: _special(config.get(f"{role}_token")) for role in ("bos", "eos")}
        for role, token in special.items():
            if token is not None and backend.token_to_id(token) is None:
                raise UsageError(
                    f"{folder}: {role}_token {token[:40]!r} of tokenizer_config.json is no token of tokenizer.json; "
                    "save the tokenizer again with AutoTokenizer(…).save_pretrained"
                )
        return cls(backend, **special)

    def __reduce__(self) -> tuple[Any, ...]:
        """To a worker it goes as the library's own JSON; its ends are named by their tokens."""
        ends = (
            None if one is None else self.backend.id_to_token(one)
            for one in (self.bos_id, self.eos_id)
        )
        return _unpickled, (type(self), self.backend.to_str(), *ends)

    @classmethod
    def trained(cls, backend: Backend) -> Self:
        """A tokenizer that `train_tokenizer` made."""
        return cls(backend, bos=BOS, eos=EOS)

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Token ids of each text, int64 `[tokens]`, without special tokens at either end."""
        ids, ends = self.encode_joined(texts)
        return [ids[first:last].astype(np.int64) for first, last in pairwise(ends.tolist())]

    def encode_joined(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """(ids of all texts one after the other, where each text's begin and end: int64 `[texts + 1]`)."""
        if self._words is not None:
            with self._lock:
                return self._words.encode(texts)
        encodings = self.backend.encode_batch_fast(list(texts), add_special_tokens=False)
        parts = [np.asarray(encoding.ids, dtype=np.int64) for encoding in encodings]
        ends = np.cumsum([0, *map(len, parts)])
        return np.concatenate([np.empty(0, np.int64), *parts]), ends

    def encode_with_ends(self, texts: Sequence[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Like `encode`, with the UTF-8 byte after the last character that each token's text is a part of."""
        if self._words is not None:
            with self._lock:
                return self._words.encode_with_ends(texts)
        found = []
        for text, encoding in zip(
            texts, self.backend.encode_batch(list(texts), add_special_tokens=False), strict=True
        ):
            bytes_before = np.cumsum([0, *(len(character.encode()) for character in text)])
            ends = bytes_before[[end for _, end in encoding.offsets]]
            found.append((np.asarray(encoding.ids, dtype=np.int64), ends))
        return found

    def num_tokens(self, texts: Sequence[str], *, up_to: int | None = None) -> list[int]:
        """How many tokens each text has, special tokens not counted.

        Args:
            texts: the texts.
            up_to: a text that must have more gets some number above it, and is not tokenized where that is known
                from its length.
        """
        if up_to is None or not self.surely_above(max(map(len, texts), default=0), up_to):
            return np.diff(self.encode_joined(texts)[1]).tolist()  # type: ignore[no-any-return]
        above = [self.surely_above(len(text), up_to) for text in texts]
        short = ["" if is_above else text for text, is_above in zip(texts, above, strict=True)]
        sizes = np.diff(self.encode_joined(short)[1]).tolist()
        return [
            up_to + 1 if is_above else size for size, is_above in zip(sizes, above, strict=True)
        ]

    def surely_above(self, num_characters: int, num_tokens: int) -> bool:
        """Whether every text of so many characters has more than `num_tokens` tokens."""
        return self._words is not None and num_characters > num_tokens * self._words.longest_bytes

    @property
    def vocabulary(self) -> dict[str, int]:
        """The id of every token, special ones included."""
        return self.backend.get_vocab(with_added_tokens=True)

    @cached_property
    def _words(self) -> WordTable | None:
        """The fast way, for the tokenizers that have it."""
        return WordTable(self.backend) if fits(self.backend) else None

    def decode(self, batches: Sequence[np.ndarray]) -> list[str]:
        """The text of each row of ids; special tokens leave no text."""
        return self.backend.decode_batch(
            [ids.tolist() for ids in batches], skip_special_tokens=True
        )

    def tokens(self, ids: Iterable[int]) -> list[str]:
        """The text of each token by itself; the name of one that has none, such as a special token."""
        tokens = [int(token) for token in ids]
        texts = self.backend.decode_batch([[token] for token in tokens], skip_special_tokens=True)
        return [
            text or self.backend.id_to_token(token) or ""
            for token, text in zip(tokens, texts, strict=True)
        ]


def _unpickled(kind: type[Tokenizer], backend: str, bos: str | None, eos: str | None) -> Tokenizer:
    return kind(Backend.from_str(backend), bos=bos, eos=eos)


def train_tokenizer(texts: Iterable[str], spec: TokenizerTraining) -> Backend:
    """A byte-level BPE of `spec.vocab_size` entries that prepends BOS and appends nothing."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=spec.vocab_size,
        special_tokens=[BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    backend.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A",
        pair=f"{BOS} $A {BOS} $B",
        special_tokens=[(BOS, backend.token_to_id(BOS))],
    )
    return backend


def tokenizer_files(backend: Backend, *, context: int) -> dict[str, bytes]:
    """The files that transformers and cdgen load a trained tokenizer from, by name."""
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": EOS,
        "model_max_length": context,
        "clean_up_tokenization_spaces": False,
    }
    contents = (backend.to_str(pretty=True), json.dumps(config, indent=2, sort_keys=True) + "\n")
    return {name: content.encode() for name, content in zip(FILES, contents, strict=True)}


def _config(file: Path) -> dict[str, Any]:
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UsageError(f"{file}: not readable as JSON: {error}") from None
    return config if isinstance(config, dict) else {}


def _special(value: Any) -> str | None:
    """A special token is written as text, or as an object with its content."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None
