"""`cdgen init --from`: a recipe for a given expert, pinned, that checks and builds; or one line and no file.

The Hub is one on this machine; each case runs in a process of its own, since huggingface_hub reads its settings once.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from decode.tiny_models import general
from hub_double import REVISION, hub
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from cdgen.builders.look_up import EXITS, look_up, spdx
from cdgen.decode.amateurs.overheard import HookedExit
from cdgen.errors import UsageError
from cdgen.recipes.load import load_recipe
from cdgen.recipes.schema import (
    EarlyExitAmateur,
    HubModel,
    TokenizerTraining,
    TruncatedContextAmateur,
)
from cdgen.recipes.starter import init
from cdgen.text.tokenizer import tokenizer_files, train_tokenizer

SMALLER = (
    "text.splits={train: 0.5, eval: 0.1, prefix: 0.4}", "generate.prefix_tokens=8", "generate.new_tokens=48",
    "generate.rows_per_batch=24", "generate.threads=1",
)  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, small_text: str) -> Path:
    """A tiny Llama with its tokenizer and a card."""
    folder = tmp_path_factory.mktemp("hub") / "models/org/tiny"
    config = LlamaConfig(
        vocab_size=300, hidden_size=16, intermediate_size=32, num_hidden_layers=4, num_attention_heads=2,
        max_position_embeddings=128, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    backend = train_tokenizer(small_text.split("\n\n"), TokenizerTraining(vocab_size=300))
    for name, content in tokenizer_files(backend, context=128).items():
        (folder / name).write_bytes(content)
    card = "---\nlanguage: en\nlicense: apache-2.0\n---\n# Tiny\nlicense: not-this\n"
    (folder / "README.md").write_text(card, encoding="utf-8")
    return folder


@pytest.fixture
def served(model: Path) -> Iterator[tuple[str, list[str]]]:
    with hub(model.parents[2]) as found:
        yield found


@pytest.fixture
def copy(model: Path, tmp_path: Path) -> Path:
    """The model's files in a folder that a test may spoil."""
    folder = tmp_path / "spoilt"
    folder.mkdir()
    for path in model.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def cdgen(
    home: Path, endpoint: str, *arguments: str, **more: str
) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(home / "hf"), "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "HF_HUB_DOWNLOAD_TIMEOUT": "2", "HF_HUB_ETAG_TIMEOUT": "2",
        "CDGEN_CACHE": str(home / "cache"), **more,
    }  # fmt: skip
    return subprocess.run(
        [sys.executable, "-m", "cdgen", *arguments],
        cwd=home,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )


def test_a_recipe_from_a_model_of_the_hub_is_pinned_and_builds(
    served: tuple[str, list[str]], tmp_path: Path, small_text: str
) -> None:
    """A branch becomes its commit; no weights are asked for before the build."""
    endpoint, asked = served
    (tmp_path / "tales.txt").write_text(small_text, encoding="utf-8")

    done = cdgen(
        tmp_path, endpoint, "init", "first.yaml", "--from", "hf://org/tiny", "--text", "tales.txt"
    )

    assert done.returncode == 0, done.stderr
    assert f"expert: org/tiny@{REVISION[:8]}, 4 layers, licence Apache-2.0" in done.stdout
    assert done.stdout.endswith("next: cdgen plan first.yaml\n")
    assert not [path for path in asked if path.endswith(".safetensors")]
    recipe = load_recipe(tmp_path / "first.yaml").recipe
    assert recipe.expert.hf is not None and recipe.tokenizer is None
    assert (recipe.expert.hf.model, recipe.expert.hf.revision) == ("org/tiny", REVISION)
    assert recipe.amateur == EarlyExitAmateur(kind="early_exit", layer=2)
    changes = [part for change in SMALLER for part in ("--set", change)]
    built = cdgen(tmp_path, endpoint, "build", "first.yaml", "--out", "out", *changes)
    assert built.returncode == 0, built.stderr
    manifest = json.loads((tmp_path / "out/manifest.json").read_text(encoding="utf-8"))
    assert manifest["name"] == "first"


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("hf://org/nobody", "hf://org/nobody@main: no such model on the Hub, or a private one"),
        ("hf://org/tiny@v9", "hf://org/tiny@v9: the model has no such commit"),
        ("hf://datasets/org/tiny", "must be hf://OWNER/NAME, perhaps with @REVISION, or a folder"),
        ("s3://org/tiny", "must be hf://OWNER/NAME"),
        ("org/tiny", "no such folder; a model on the Hub is hf://OWNER/NAME"),
    ],
)
def test_a_wrong_address_is_one_line_and_no_file(
    served: tuple[str, list[str]], tmp_path: Path, address: str, expected: str
) -> None:
    done = cdgen(tmp_path, served[0], "init", "first.yaml", "--from", address)

    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("cdgen: --from ") and expected in done.stderr
    assert not list(tmp_path.glob("*.yaml")) and not (tmp_path / "tales").exists()


def test_without_a_connection_it_is_one_line_and_no_file(tmp_path: Path) -> None:
    unreachable = cdgen(tmp_path, "http://127.0.0.1:9", "init", "--from", "hf://org/tiny")
    offline = cdgen(
        tmp_path, "http://127.0.0.1:9", "init", "--from", "hf://org/tiny", HF_HUB_OFFLINE="1"
    )

    for done in (unreachable, offline):
        assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "hf://org/tiny@main: cannot be downloaded" in unreachable.stderr
    assert "hf://org/tiny@main: HF_HUB_OFFLINE is set; unset it, or give a folder" in offline.stderr
    assert not list(tmp_path.glob("*.yaml"))


def test_a_folder_is_named_relative_to_the_recipe(copy: Path) -> None:
    """And the text stays the fairy tales."""
    written = init(copy.parent / "first.yaml", expert=look_up(str(copy)))

    recipe = load_recipe(written[0]).recipe
    assert str(recipe.expert.path) == "spoilt"
    text = written[0].read_text(encoding="utf-8")
    assert recipe.expert.license == "Apache-2.0"
    assert (
        "The licence is what its card says." in text
        and "Llama" not in text
        and "minutes" not in text
    )
    assert "# The share of synthetic tokens" in text and "$" not in text.split("\n", 1)[1]


def test_a_model_without_a_card_has_no_licence_and_the_recipe_says_so(copy: Path) -> None:
    (copy / "README.md").unlink()

    written = init(copy.parent / "first.yaml", expert=look_up(str(copy)))

    assert load_recipe(written[0]).recipe.expert.license is None
    assert "Its card names no licence" in written[0].read_text(encoding="utf-8")


def test_a_short_model_writes_as_much_in_shorter_pieces(copy: Path) -> None:
    """128 positions instead of 220 tokens: prefix and completion fit, and no text is missing for it."""
    generate = load_recipe(
        init(copy.parent / "first.yaml", expert=look_up(str(copy)))[0]
    ).recipe.generate

    assert generate.prefix_tokens + generate.new_tokens == 128
    assert generate.completions * 128 >= 6 * 220


@pytest.mark.parametrize(
    ("gone", "expected"),
    [
        ("config.json", "no model that transformers loads (config.json is missing)"),
        ("model.safetensors", "no safetensors weights; pickled weights are not loaded"),
        ("tokenizer.json", "no tokenizer (tokenizer.json is missing)"),
    ],
)
def test_a_model_that_would_not_build_is_refused(copy: Path, gone: str, expected: str) -> None:
    (copy / gone).unlink()

    with pytest.raises(UsageError) as refusal:
        look_up(str(copy))

    assert str(refusal.value).startswith(f"--from {copy}: {expected}")


@pytest.mark.parametrize(
    "change",
    [{"model_type": "novel"}, {"final_logit_softcapping": 30.0}, {"num_hidden_layers": 1}],
)
def test_a_model_without_exits_gets_another_amateur(copy: Path, change: dict[str, object]) -> None:
    config = json.loads((copy / "config.json").read_text(encoding="utf-8"))
    (copy / "config.json").write_text(json.dumps(config | change), encoding="utf-8")

    recipe = load_recipe(init(copy.parent / "first.yaml", expert=look_up(str(copy)))[0]).recipe

    assert recipe.amateur == TruncatedContextAmateur(kind="truncated_context", prefix_tokens=1)


@pytest.mark.parametrize("model_type", EXITS)
def test_the_model_types_that_are_given_an_exit_have_one(model_type: str) -> None:
    """`HookedExit` tries the way out on the model itself and refuses where it is another one."""
    sizes = {
        "vocab_size": 67, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 64, "head_dim": 8, "pad_token_id": None,
    }  # fmt: skip
    if model_type == "gpt2":
        sizes = {"vocab_size": 67, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
    if model_type in ("gpt_neox", "phi3"):
        del sizes["head_dim"]
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **sizes)).eval()

    exit_ = HookedExit(general(model), 1)
    with torch.inference_mode():
        model(input_ids=torch.tensor([[3, 5]]))

    assert exit_.logits().shape == (1, 67)


def test_a_licence_of_a_card_is_an_spdx_id() -> None:
    """What has none is a reference that publishing asks about; nothing said stays nothing."""
    assert spdx("apache-2.0") == "Apache-2.0"
    assert spdx("cc-by-nc-4.0") == "CC-BY-NC-4.0"
    assert spdx("llama3.1") == "LicenseRef-llama3.1"
    assert spdx("made up: by me!") == "LicenseRef-made-up-by-me"
    assert [spdx(said) for said in ("other", "", None, ["mit", "gpl"])] == [None] * 4


def test_a_given_model_is_part_of_the_recipe_by_value(copy: Path) -> None:
    """No shape of the name can break the YAML around it."""
    odd = copy.rename(copy.parent / "a: {b}, #c")

    expert = load_recipe(
        init(copy.parent / "first.yaml", expert=look_up(str(odd)))[0]
    ).recipe.expert

    assert str(expert.path) == "a: {b}, #c" and not isinstance(expert.hf, HubModel)
