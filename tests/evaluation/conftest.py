"""A model that is far too small, its tokenizer, and hand-made items: every test here runs the real path on them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
)

from cdgen.recipes.schema import TokenizerTraining
from cdgen.text.tokenizer import tokenizer_files, train_tokenizer

VOCABULARY = 500


def tiny(kind: str) -> PreTrainedModel:
    """A model of some thousand weights, large enough apart that no two scores are near."""
    torch.manual_seed(3)
    sizes: dict[str, Any] = {"vocab_size": VOCABULARY, "initializer_range": 0.3}
    layers: dict[str, Any] = {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 512,
    }  # fmt: skip
    model: PreTrainedModel
    match kind:
        case "llama":
            model = LlamaForCausalLM(LlamaConfig(**sizes, **layers))
        case "window":
            model = MistralForCausalLM(MistralConfig(**sizes, **layers, sliding_window=4))
        case _:
            config = GPT2Config(**sizes, n_embd=32, n_layer=2, n_head=4, n_positions=128)
            model = GPT2LMHeadModel(config)
    return model


@pytest.fixture(scope="session")
def make_checkpoint(
    tales: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """A model folder; `bos=False`: of a tokenizer that puts nothing before a text."""
    spec = TokenizerTraining(algorithm="bpe", vocab_size=VOCABULARY)
    backend = train_tokenizer(tales[:10], spec)

    def make(kind: str = "llama", *, bos: bool = True) -> Path:
        folder = tmp_path_factory.mktemp("checkpoints") / kind
        tiny(kind).save_pretrained(folder)
        for name, content in tokenizer_files(backend, context=512).items():
            (folder / name).write_bytes(content)
        if not bos:
            spec = json.loads((folder / "tokenizer.json").read_text())
            spec["post_processor"] = None
            (folder / "tokenizer.json").write_text(json.dumps(spec))
        return folder

    return make


@pytest.fixture(scope="session")
def checkpoint(make_checkpoint: Callable[..., Path]) -> Path:
    return make_checkpoint()


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder in the pipeline's layout, with items of our own."""
    folder = tmp_path / "data"
    pairs = [
        ("The cats sleep on the mat.", "The cats sleeps on the mat."),
        ("The cats sleep under the table.", "The cats sleeps under the table."),
        ("Émile's dog barks – at night.", "Émile's dog bark – at night."),
    ]
    agreement = [
        {"sentence_good": good, "sentence_bad": bad, "field": "syntax", "UID": "agreement", "linguistics_term": "s_v"}
        for good, bad in pairs
    ]  # fmt: skip
    _write(folder / "blimp_filtered/a.jsonl", agreement)
    _write(
        folder / "blimp_filtered/b.jsonl",
        [{**agreement[0], "UID": "order", "sentence_bad": "Cats the sleep mat the on."}],
    )
    _write(
        folder / "supplement_filtered/turns.jsonl",
        [{"sentence_good": "A: Who?\nB: Anna.", "sentence_bad": "A: Who?\nB: Yes."}],
    )
    _write(
        folder / "ewok_filtered/places.jsonl",
        [
            {"Domain": "places", "Context1": "The ball is in the box.", "Target1": "The box is full.",
             "Context2": "The ball is on the box.", "Target2": "The box is empty."}
        ],
    )  # fmt: skip
    boxes = "Box 0 contains the hat and the key, Box 1 contains nothing."
    rows = [
        {"numops": 0, "input_prefix": f"{boxes} Box 0 contains ",
         "options": ["the hat and the key.", "the cup and the key.", "the hat and the pen."]},
        {"numops": 0, "input_prefix": f"{boxes} Box 1 contains ", "options": ["nothing.", "the hat.", "the key."]},
        {"numops": 1, "input_prefix": f"{boxes} Move the key from Box 0 to Box 1. Box 1 contains ",
         "options": ["the key.", "the hat.", "the cup."]},
    ]  # fmt: skip
    for name in ("regular", "ambiref"):
        _write(folder / f"entity_tracking/{name}.jsonl", rows)
    adjectives = ["dulable", "morable", "nivable", "ravable"]
    _write(
        folder / "wug_adj_nominalization/wug.jsonl",
        [
            {"sentences": f"A noun of {one}. {one[:-4]}ability\tA noun of {one}. {one}ness", "ratio": number / 10}
            for number, one in enumerate(adjectives)
        ],
    )  # fmt: skip
    (folder / "wordorder").mkdir()
    (folder / "wordorder/nsubj_faroese.csv").write_text(
        'sen_str,swapped_sen_str,rule\n"Maðurin, hann svevur .","svevur Maðurin, hann .",x\n',
        encoding="utf-8",
    )
    return folder
