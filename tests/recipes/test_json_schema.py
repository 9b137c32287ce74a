"""The JSON Schema accepts what the program accepts, and the files made from it are not stale."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from pydantic import BaseModel
from small import SMALL_RECIPE

from cdgen.builders.profile import Profile, load_profile
from cdgen.errors import UsageError
from cdgen.recipes import schema as recipe_schema
from cdgen.recipes.json_schema import SCHEMA_FILES, json_schema, modeline, schema_text
from cdgen.recipes.load import load_recipe
from cdgen.recipes.reference import RUNS, SWEEPS, reference
from cdgen.recipes.runs import Run, RunMix, RunTraining, Start
from cdgen.recipes.schema import Recipe, Spec
from cdgen.recipes.sweeps import Sweep
from cdgen.resources import names, resource

CHECKOUT = Path(__file__).resolve().parents[2]
SPECS = [
    kind
    for kind in vars(recipe_schema).values()
    if isinstance(kind, type) and issubclass(kind, Spec) and kind is not Spec
]


@cache
def validator(model: type[BaseModel]) -> Any:
    """A validator of the schema, which is itself valid."""
    found = json_schema(model)
    jsonschema.Draft202012Validator.check_schema(found)
    return jsonschema.Draft202012Validator(found)


def test_every_packaged_file_is_valid() -> None:
    for kind, model in (("recipes", Recipe), ("builders", Profile)):
        for name in names(kind):  # type: ignore[arg-type]
            text = resource(kind, name).read_text(encoding="utf-8")  # type: ignore[arg-type]
            said = yaml.safe_load(text)
            kinds: dict[str, type[Spec]] = {"corpus": Run, "matrix": Sweep}
            found = next((kinds[key] for key in kinds if key in said), model)
            assert list(validator(found).iter_errors(said)) == [], name


def test_the_small_recipe_is_valid() -> None:
    assert list(validator(Recipe).iter_errors(yaml.safe_load(SMALL_RECIPE))) == []


WRONG = [
    ("alpha: 0.1", "aplha: 0.1"),
    ("alpha: 0.1", "alpha: 1.5"),
    ("alpha: 0.1", "alpha: '0.1'"),
    ("alpha: 0.1", "outside_head: head"),
    ("method: contrastive", "method: contrast"),
    ("kind: checkpoint", "kind: chekpoint"),
    ("kind: checkpoint, checkpoint: 4", "kind: none, checkpoint: 4"),
    ("steps: 12", "steps: 0"),
    ("steps: 12", "steps: 1.5"),
    ("steps: 12", "steps: true"),
    ("name: small", "name: Small Tales"),
    ("name: tales, ", ""),
    ("version: 1", "version: 2"),
    ("mix: {synthetic: 0.3, seed: 42}", "mix: [1]"),
    ("synthetic: 0.3", "synthetic: 1.0"),
    ("{documents: 16}", "{documents: 16, size: 4}"),
]


@pytest.mark.parametrize(("old", "new"), WRONG)
def test_a_wrong_recipe_is_refused_by_schema_and_program(
    tmp_path: Path, old: str, new: str
) -> None:
    """An editor shows what `cdgen check` would."""
    assert old in SMALL_RECIPE
    file = tmp_path / "r.yaml"
    file.write_text(SMALL_RECIPE.replace(old, new), encoding="utf-8")

    assert list(validator(Recipe).iter_errors(yaml.safe_load(file.read_text(encoding="utf-8"))))
    with pytest.raises(UsageError):
        load_recipe(file)


def test_a_wrong_profile_is_refused_by_schema_and_program(tmp_path: Path) -> None:
    text = "version: 1\nname: here\nengine: steam\n"
    file = tmp_path / "p.yaml"
    file.write_text(text, encoding="utf-8")

    assert list(validator(Profile).iter_errors(yaml.safe_load(text)))
    with pytest.raises(UsageError, match=r"p.yaml:3:9: engine: must be "):
        load_profile(file)


@pytest.mark.parametrize("value", ["-inf", "tail", -20, -20.5])
def test_the_head_s_outside_may_be_a_word_or_a_number(value: object) -> None:
    recipe = yaml.safe_load(SMALL_RECIPE)
    recipe["decode"]["outside_head"] = value

    assert list(validator(Recipe).iter_errors(recipe)) == []


@pytest.mark.parametrize(
    "spec", [*SPECS, Profile, Run, RunMix, Start, RunTraining], ids=lambda spec: spec.__name__
)
def test_every_field_has_its_help(spec: type[Spec]) -> None:
    """The text under the field, or for a section the text under its class."""
    silent = [
        name
        for name, field in spec.model_fields.items()
        if not field.description and name != "kind" and "Spec" not in _bases(field.annotation)
    ]

    assert silent == []
    assert spec.__doc__


def _bases(annotation: object) -> set[str]:
    """The names of the base classes of what an annotation is made of."""
    inner = getattr(annotation, "__args__", ())
    own = {base.__name__ for base in annotation.__mro__} if isinstance(annotation, type) else set()
    return own.union(*map(_bases, inner))


def test_the_schema_s_descriptions_are_the_fields_help() -> None:
    alpha = json_schema(Recipe)["$defs"]["Decode"]["properties"]["alpha"]

    assert alpha["description"] == recipe_schema.Decode.model_fields["alpha"].description
    assert (alpha["default"], alpha["exclusiveMinimum"], alpha["exclusiveMaximum"]) == (0.1, 0, 1)


@pytest.mark.parametrize(
    ("kind", "folder", "model"),
    [
        ("recipe", "recipes", Recipe),
        ("run", "recipes", Run),
        ("sweep", "recipes", Sweep),
        ("builder", "builders", Profile),
    ],
)
def test_the_packaged_schema_is_not_stale(kind: str, folder: str, model: type[BaseModel]) -> None:
    """`make docs-reference` writes it."""
    kept = CHECKOUT / folder / SCHEMA_FILES[kind]

    assert kept.read_text(encoding="utf-8") == schema_text(model)


@pytest.mark.parametrize("kind", ["recipe", "builder"])
def test_every_packaged_file_names_its_schema(kind: str) -> None:
    """An editor finds it: the path is relative, and the file is there."""
    files = sorted((CHECKOUT / f"{kind}s").glob("*.yaml"))

    assert files
    for file in files:
        assert file.read_text(encoding="utf-8").startswith(modeline(kind) + "\n"), file.name
        assert (file.parent / SCHEMA_FILES[kind]).is_file()


def test_the_recipe_reference_is_not_stale() -> None:
    """`make docs-reference` writes it."""
    kept = (CHECKOUT / "docs/recipes.md").read_text(encoding="utf-8")

    assert kept == reference(json_schema(Recipe))
    runs = (CHECKOUT / "docs/run-files.md").read_text(encoding="utf-8")
    assert runs == reference(json_schema(Run), RUNS)
    sweeps = (CHECKOUT / "docs/sweep-files.md").read_text(encoding="utf-8")
    assert sweeps == reference(json_schema(Sweep), SWEEPS)


def test_the_reference_has_every_field_of_every_section() -> None:
    text = reference(json_schema(Recipe))

    for spec in SPECS:
        for name, field in spec.model_fields.items():
            row = f"| `{field.alias or name}` | "
            assert row in text, f"{spec.__name__}.{name}"
    assert json.dumps(json_schema(Recipe)).count('"description"') > 50
