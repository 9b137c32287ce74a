"""Models, tokenizers and datasets of the Hub: pinned, without pickles, and one line where something is missing.

A Hub on this machine serves them; each case runs in a process of its own, since the libraries read their settings once.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from given_models import given_recipe, save_model
from hub_double import REVISION, hub
from tokenizers import Tokenizer as Backend

from cdgen.recipes.schema import TokenizerTraining
from cdgen.text.tokenizer import train_tokenizer

PIN = f"revision: {REVISION}"
GIVEN = given_recipe(f"hf: {{model: org/expert, {PIN}}}", f"hf: {{model: org/amateur, {PIN}}}")
RESOLVE = """
import sys
from pathlib import Path
from cdgen.builders.inputs import resolve
from cdgen.errors import UsageError
from cdgen.recipes.load import load_recipe
try:
    found = resolve(load_recipe(sys.argv[1]))
    print(found.hashes.expert, found.hashes.tokenizer, sorted(p.name for p in found.expert.rglob("*")))
except UsageError as error:
    print("refused:", error)
"""


@pytest.fixture(scope="module")
def backend(small_text: str) -> Backend:
    return train_tokenizer(small_text.split("\n\n"), TokenizerTraining(vocab_size=300))


@pytest.fixture
def root(tmp_path: Path, backend: Backend) -> Path:
    """Two models with their tokenizers; beside the expert a pickle and another format in a folder."""
    for name, layers in (("expert", 2), ("amateur", 1)):
        save_model(tmp_path / "hub/models/org" / name, backend, layers)
    expert = tmp_path / "hub/models/org/expert"
    (expert / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    (expert / "original").mkdir()
    (expert / "original/consolidated.safetensors").write_bytes(b"other")
    return tmp_path / "hub"


@pytest.fixture
def recipe(small_recipe: Path) -> Path:
    small_recipe.write_text(GIVEN, encoding="utf-8")
    return small_recipe


@pytest.fixture
def served(root: Path) -> Iterator[tuple[str, list[str]]]:
    with hub(root) as found:
        yield found


def run(
    home: Path, endpoint: str, *command: str, offline: bool = False
) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(home / "hf"), "HF_HUB_OFFLINE": str(int(offline)),
        "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1", "CDGEN_CACHE": str(home / "cache"),
        "HF_HUB_DOWNLOAD_TIMEOUT": "2", "HF_HUB_ETAG_TIMEOUT": "2",
    }  # fmt: skip
    return subprocess.run(
        [sys.executable, *command],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )


def resolved(home: Path, endpoint: str, recipe: Path, *, offline: bool = False) -> str:
    done = run(home, endpoint, "-c", RESOLVE, str(recipe), offline=offline)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]


def test_a_model_of_the_hub_is_downloaded_once_and_without_pickles(
    served: tuple[str, list[str]], recipe: Path, tmp_path: Path
) -> None:
    """Safetensors, JSON and tokenizer files only; afterwards no connection is needed, and the hashes are the same."""
    endpoint, asked = served
    first = resolved(tmp_path, endpoint, recipe)

    assert "model.safetensors" in first and "tokenizer.json" in first
    assert not [
        path for path in asked if path.endswith("pytorch_model.bin") or "consolidated" in path
    ]
    assert resolved(tmp_path, endpoint, recipe, offline=True) == first
    assert resolved(tmp_path, "http://127.0.0.1:9", recipe) == first


def test_a_model_of_the_hub_is_its_content(
    served: tuple[str, list[str]], root: Path, recipe: Path, tmp_path: Path
) -> None:
    """The same hashes as the same files under a path."""
    local = tmp_path / "local.yaml"
    text = GIVEN.replace(
        f"{{hf: {{model: org/expert, {PIN}}}}}", f"{{path: {root}/models/org/expert}}"
    )
    text = text.replace(f"hf: {{model: org/amateur, {PIN}}}", f"path: {root}/models/org/amateur")
    local.write_text(
        text.replace("tales.txt", str(recipe.with_name("tales.txt"))), encoding="utf-8"
    )

    assert (
        resolved(tmp_path, served[0], recipe).split()[:2]
        == resolved(tmp_path, served[0], local).split()[:2]
    )


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            ("org/expert", "org/nobody"),
            "org/nobody@01234567: no such model on the Hub, or a private one",
        ),
        (
            (f"org/expert, {PIN}", f"org/expert, revision: {'f' * 40}"),
            "org/expert@ffffffff: the model has no such commit",
        ),
    ],
)
def test_a_wrong_name_is_one_line_with_its_place(
    served: tuple[str, list[str]],
    recipe: Path,
    tmp_path: Path,
    change: tuple[str, str],
    expected: str,
) -> None:
    recipe.write_text(GIVEN.replace(*change), encoding="utf-8")
    message = resolved(tmp_path, served[0], recipe)

    assert message.startswith(f"refused: {recipe}:") and f"expert.hf: {expected}" in message


@pytest.mark.parametrize("offline", [True, False])
def test_without_a_connection_and_a_cache_it_is_one_line(
    recipe: Path, tmp_path: Path, offline: bool
) -> None:
    message = resolved(tmp_path, "http://127.0.0.1:9", recipe, offline=offline)

    assert (
        "expert.hf: org/expert@01234567: is not in the cache and the Hub cannot be reached"
        in message
    )


def test_a_download_that_was_cut_is_one_line(
    served: tuple[str, list[str]], root: Path, recipe: Path, tmp_path: Path
) -> None:
    """The snapshot's folder is there, but not all of the weights that its index names."""
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (root / "models/org/expert/model.safetensors.index.json").write_text(json.dumps(index))

    assert "model-00002-of-00002.safetensors and 0 more files are missing" in resolved(
        tmp_path, served[0], recipe
    )


def test_a_revision_must_be_a_whole_commit(recipe: Path) -> None:
    """A branch or a short sha can mean something else tomorrow."""
    from cdgen.errors import UsageError
    from cdgen.recipes.load import load_recipe

    for revision in ("main", REVISION[:12]):
        recipe.write_text(GIVEN.replace(REVISION, revision), encoding="utf-8")
        with pytest.raises(UsageError, match=r"expert.hf.revision: .*\[0-9a-f\]\{40\}"):
            load_recipe(recipe)


def test_a_corpus_is_built_from_the_hub_alone(
    served: tuple[str, list[str]], root: Path, recipe: Path, tmp_path: Path, small_text: str
) -> None:
    """Text, tokenizer, expert and amateur; the lock names the commits, and a second build needs no connection."""
    rows = [json.dumps({"body": text}) for text in small_text.split("\n\n")]
    data = root / "datasets/org/tales"
    data.mkdir(parents=True)
    (data / "train.jsonl").write_text("\n".join(rows), encoding="utf-8")
    hub_source = f"hf: {{dataset: org/tales, {PIN}, field: body}}"
    recipe.write_text(
        GIVEN.replace("path: tales.txt, format: text, document: blank-line", hub_source),
        encoding="utf-8",
    )
    out = tmp_path / "out"

    done = run(tmp_path, served[0], "-m", "cdgen", "build", str(recipe), "--out", str(out))

    assert done.returncode == 0, done.stderr
    lock = json.loads((out / "recipe.lock.json").read_text(encoding="utf-8"))
    assert (
        lock["sources"]["tales"]["hub"]["revision"]
        == lock["models"]["expert"]["hub"]["revision"]
        == REVISION
    )
    again = run(
        tmp_path, served[0], "-m", "cdgen", "build", str(recipe), "--out", str(out), offline=True
    )
    assert again.returncode == 0, again.stderr
    assert run(tmp_path, served[0], "-m", "cdgen", "verify", str(out)).returncode == 0


def test_a_dataset_that_is_not_there_is_one_line(
    served: tuple[str, list[str]], recipe: Path, tmp_path: Path
) -> None:
    """Exit code 2, and no shard is left."""
    hub_source = f"hf: {{dataset: org/nothing, {PIN}}}"
    recipe.write_text(
        GIVEN.replace("path: tales.txt, format: text, document: blank-line", hub_source),
        encoding="utf-8",
    )

    done = run(
        tmp_path, served[0], "-m", "cdgen", "build", str(recipe), "--out", str(tmp_path / "out")
    )

    assert done.returncode == 2 and "org/nothing@01234567: cannot read split train" in done.stderr
    assert not list((tmp_path / "out").rglob("*.tar"))
