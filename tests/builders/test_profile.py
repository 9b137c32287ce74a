"""Builder profiles: what they say, and what a wrong one is told."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from cdgen.builders.profile import Profile, check_file, load_profile
from cdgen.errors import UsageError
from cdgen.recipes.json_schema import json_schema, schema_text
from cdgen.recipes.load import load_recipe
from cdgen.recipes.runs import load_run
from cdgen.recipes.sweeps import load_sweep
from cdgen.resources import names, resource

CHECKOUT = Path(__file__).resolve().parents[2]
RAY = """\
version: 1
name: here
engine: ray
address: auto
workers: {min: 1, max: 4, gpus: 0.5, cpus: 2.0, labels: {zone: a}}
"""


def loaded(folder: Path, text: str) -> Profile:
    file = folder / "p.yaml"
    file.write_text(text, encoding="utf-8")
    return load_profile(file)


def test_the_packaged_profiles_say_their_own_names() -> None:
    assert {"local", "ray-local", "ray-cluster"} <= set(names("builders"))
    for name in names("builders"):
        assert check_file(resource("builders", name)) == ("builder profile", name)


@pytest.mark.parametrize("load", [load_recipe, load_run, load_sweep, load_profile])
def test_a_file_of_another_kind_is_called_what_it_is(load: Callable[[Path], object]) -> None:
    given = {
        load_recipe: (CHECKOUT / "recipes/mini/english.yaml", r"is a recipe; `cdgen build`"),
        load_run: (CHECKOUT / "recipes/mini/run.yaml", r"is a run file; `cdgen train`"),
        load_sweep: (CHECKOUT / "recipes/mini/english.sweep.yaml", r"is a sweep; `cdgen sweep`"),
        load_profile: (resource("builders", "local"), r"is a builder profile; `cdgen build RECIPE --builder`"),
    }  # fmt: skip
    for takes, (file, said) in given.items():
        if takes is load:
            load(file)
            continue
        with pytest.raises(UsageError, match=f"^{re.escape(str(file))}: {said} takes it$"):
            load(file)


def test_ray_local_shows_the_defaults() -> None:
    """A field that the file leaves out would say the same."""
    shown = load_profile(resource("builders", "ray-local"))

    assert shown.model_copy(update={"description": ""}) == Profile(
        version=1, name="ray-local", engine="ray"
    )


def test_the_schema_file_is_not_stale() -> None:
    kept = (CHECKOUT / "builders/builder.schema.json").read_text(encoding="utf-8")

    assert kept == schema_text(Profile)


WRONG = [
    ("address: auto", "address: somewhere", r"4:10: address: must be local, auto, HOST:PORT or "),
    ("max: 4", "max: 0", r"5:24: workers.max: must be greater than or equal to 1"),
    ("gpus: 0.5", "gpus: 1.5", r"5:33: workers.gpus: gpus must be whole when it is above 1"),
    ("min: 1", "min: 9", r"5:24: workers.max: max must be at least min, 9"),
    ("engine: ray", "engine: local", r"4:10: address belongs to engine: ray; leave it out"),
    ("max: 4", "maxx: 4", r"5:19: unknown field 'workers.maxx' \(did you mean 'max'\?\)"),
    ("zone: a", "zone: $(a)", r"5:64: workers.labels.zone: match pattern"),
    ("zone: a", "zone: 3", r"5:64: workers.labels.zone: must be text"),
]


@pytest.mark.parametrize(("old", "new", "message"), WRONG)
def test_a_wrong_profile_is_told_where_and_what(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    assert old in RAY
    with pytest.raises(UsageError, match=message):
        loaded(tmp_path, RAY.replace(old, new))


@pytest.mark.parametrize(("old", "new", "message"), [w for w in WRONG if w[1] != "gpus: 1.5"][:2])
def test_an_editor_shows_the_same(tmp_path: Path, old: str, new: str, message: str) -> None:
    validator: Any = jsonschema.Draft202012Validator(json_schema(Profile))

    assert list(validator.iter_errors(yaml.safe_load(RAY))) == []
    assert list(validator.iter_errors(yaml.safe_load(RAY.replace(old, new))))


@pytest.mark.parametrize("address", ["local", "auto", "10.0.0.1:6379", "ray://head:10001"])
def test_addresses(tmp_path: Path, address: str) -> None:
    assert loaded(tmp_path, RAY.replace("auto", address)).address == address
