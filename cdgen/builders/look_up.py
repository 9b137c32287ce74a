"""What `cdgen init --from` asks of a model before it is anybody's expert: nothing but its small files is read.

A branch of the Hub is resolved to the commit that it names now, and the recipe is pinned to that. What would stop a
build later (no safetensors, no tokenizer) is said here, before a recipe is written.
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from cdgen.builders.given import check_tokenizer, config_number, read_config
from cdgen.builders.snapshots import TOKENIZER, asking_the_hub, snapshot
from cdgen.errors import UsageError
from cdgen.recipes.licenses import check_license
from cdgen.recipes.licensing import HUB_IDS
from cdgen.recipes.schema import HubModel
from cdgen.recipes.starter import GivenExpert

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo

OPTION = "--from"
EXITS = (
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "gpt2",
    "gpt_neox",
    "gemma",
    "olmo2",
    "phi3",
    "smollm3",
)
"""Model types whose middle layers are read through the last norm and head; the tests build one of each."""

_ADDRESS = re.compile(r"hf://(?P<model>[\w.-]+(/[\w.-]+)?)(@(?P<revision>[^@\s?#]+))?")
_CAPS = ("final_logit_softcapping", "logit_scale", "logits_scaling")


def look_up(address: str) -> GivenExpert:
    """The facts of a model that a recipe is written for.

    Args:
        address: hf://OWNER/NAME, perhaps with @REVISION (a branch, a tag or a commit), or a folder.

    Raises:
        UsageError: no such model or folder, no connection, or one that cdgen could not use.
    """
    if "://" in address:
        return _on_the_hub(address)
    folder = Path(address)
    if not folder.is_dir():
        raise UsageError(
            f"{OPTION} {address}: no such folder; a model on the Hub is hf://OWNER/NAME"
        )
    names = {path.name for path in folder.iterdir()}
    _check_names(names, f"{OPTION} {address}")
    readme = folder / "README.md"
    card = readme.read_text(encoding="utf-8", errors="replace") if readme.is_file() else ""
    said = re.match(
        r"---\n(?:.*\n)*?license:[ \t]*([\w.-]+)[ \t]*\n", card.partition("\n---")[0] + "\n"
    )
    return _facts(folder, folder, said[1] if said else None, f"{OPTION} {address}")


def hub_address(address: str, at: str) -> tuple[str, str]:
    """(model, revision) of hf://OWNER/NAME[@REVISION]; `at` begins the message of the UsageError."""
    found = _ADDRESS.fullmatch(address)
    if found is None:
        raise UsageError(
            f"{at} {address}: must be hf://OWNER/NAME, perhaps with @REVISION, or a folder"
        )
    return found["model"], found["revision"] or "main"


def _on_the_hub(address: str) -> GivenExpert:
    model, revision = hub_address(address, OPTION)
    at = f"{OPTION} hf://{model}@{revision}"
    about = model_info(model, revision, at)
    _check_names({file.rfilename for file in about.siblings or ()}, at)
    try:
        place = HubModel(model=model, revision=about.sha or "")
    except ValidationError:
        raise UsageError(f"{at}: the Hub names no commit of {revision}") from None
    folder = snapshot(place, OPTION, weights=False)
    return _facts(place, folder, about.card_data.get("license") if about.card_data else None, at)


def model_info(model: str, revision: str, at: str) -> "ModelInfo":
    """What the Hub says of a model at a revision; UsageError where it says nothing."""
    from huggingface_hub import HfApi

    from cdgen import __version__

    with asking_the_hub(at):
        api = HfApi(library_name="cdgen", library_version=__version__)
        return api.model_info(model, revision=revision)


def _check_names(names: set[str], at: str) -> None:
    """Whether the files that a build needs are there."""
    if "config.json" not in names:
        raise UsageError(f"{at}: no model that transformers loads (config.json is missing)")
    if not any(name.endswith(".safetensors") and "/" not in name for name in names):
        raise UsageError(
            f"{at}: no safetensors weights; pickled weights are not loaded, "
            "save them again with save_pretrained(…, safe_serialization=True)"
        )
    if TOKENIZER[0] not in names:
        raise UsageError(f"{at}: no tokenizer ({TOKENIZER[0]} is missing)")


def _facts(place: HubModel | Path, folder: Path, license_: Any, at: str) -> GivenExpert:
    check_tokenizer(folder, at)
    config = read_config(folder)
    capped = any(config.get(name) not in (None, 1, 1.0) for name in _CAPS)
    return GivenExpert(
        place=place,
        layers=config_number(folder, "num_hidden_layers", "n_layer") or 0,
        positions=config_number(folder, "max_position_embeddings", "n_positions"),
        has_exits=config.get("model_type") in EXITS and not capped,
        license=spdx(license_),
    )


def spdx(hub_id: Any) -> str | None:
    """A licence as a card of the Hub names it, as an SPDX id; LicenseRef-… for one that has none; None = unknown."""
    if not isinstance(hub_id, str) or hub_id.lower() in ("", "other", "unknown"):
        return None
    ours = {theirs: one for one, theirs in HUB_IDS.items()}
    try:
        return check_license(ours.get(hub_id.lower(), hub_id))
    except ValueError:
        return "LicenseRef-" + re.sub(r"[^A-Za-z0-9.]+", "-", hub_id).strip("-")[:64]
