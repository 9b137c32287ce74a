"""A recipe is accepted whole, or refused in one line that says where and what."""

import re
from pathlib import Path

import pytest
from fuzz import cases
from hypothesis import given
from hypothesis import strategies as st
from small import SMALL_RECIPE

from cdgen.errors import UsageError
from cdgen.recipes.load import load_recipe
from cdgen.resources import names, resource


def error_of(folder: Path, text: str) -> str:
    """The one line for a recipe with this text."""
    file = folder / "r.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        load_recipe(file)
    message = str(caught.value)
    assert "\n" not in message
    return message.removeprefix(str(file))


def test_every_packaged_recipe_is_accepted() -> None:
    """What is shipped can be built."""
    for name in names("recipes"):
        if "/runs/" in name or name.endswith((".sweep", "/run")):
            continue  # a run file, a sweep
        found = load_recipe(resource("recipes", name)).recipe.name
        assert found == name or "/" in name, name


def test_absent_fields_take_the_documented_defaults(tmp_path: Path) -> None:
    """A recipe of the required fields alone is complete."""
    file = tmp_path / "r.yaml"
    file.write_text(
        "version: 1\nname: x\ntext: {sources: [{name: a, path: a.txt, license: MIT}]}\n"
        "expert: {train: {}}\namateur: {kind: checkpoint, checkpoint: 500}\n",
        encoding="utf-8",
    )

    recipe = load_recipe(file).recipe

    assert (recipe.decode.lambda_, recipe.decode.alpha, recipe.decode.outside_head) == (
        1.0,
        0.1,
        "-inf",
    )
    assert (recipe.generate.completions, recipe.generate.new_tokens) == (8, 400)
    assert (recipe.mix.synthetic, recipe.shards.documents) == (0.3, 4096)
    assert recipe.filters is None and recipe.preflight is None


CASES = [
    (
        "unknown key",
        ("alpha: 0.1", "aplha: 0.1"),
        r":15:44: unknown field 'decode.aplha' \(did you mean 'alpha'\?\)",
    ),
    (
        "no near name",
        ("alpha: 0.1", "xyz: 0.1"),
        r"unknown field 'decode.xyz'; allowed here: alpha, ",
    ),
    (
        "1e-3 is text",
        ("1.0e-2", "1e-2"),
        r":12:45: expert.train.learning_rate: must be a number, found 1e-2, which YAML 1.1",
    ),
    (
        "no is false",
        ("name: small", "name: no"),
        r":2:7: name: must be text, found no, which YAML reads as false; quote it",
    ),
    (
        "a quoted number",
        ("steps: 12", 'steps: "12"'),
        r"expert.train.steps: must be a whole number, found '12'",
    ),
    ("a bool for a number", ("steps: 12", "steps: true"), r"must be a whole number, found True"),
    ("out of range", ("alpha: 0.1", "alpha: 1.5"), r"decode.alpha: must be less than 1, found 1.5"),
    ("infinity", ("synthetic: 0.3", "synthetic: .inf"), r"mix.synthetic: must be "),
    (
        "a duplicate key",
        ("seed: 42}\nshards", "seed: 42, seed: 43}\nshards"),
        r"mix.seed is given twice",
    ),
    ("a missing field", ("name: tales, ", ""), r":6:7: text.sources\[0\].name is missing"),
    (
        "a wrong kind",
        ("kind: checkpoint", "kind: chekpoint"),
        r":14:17: amateur.kind: must be one of 'checkpoint', ",
    ),
    ("no kind", ("kind: checkpoint, ", ""), r":14:10: amateur.kind is missing"),
    (
        "a step never kept",
        ("checkpoint: 4}", "checkpoint: 5}"),
        r":14:41: amateur.checkpoint 5 is never written; the run keeps 4, 8, 12",
    ),
    (
        "shares",
        ("train: 0.5", "train: 0.6"),
        r"text.splits.train: train \+ eval \+ prefix must be 1, found 1.1",
    ),
    (
        "geometry",
        ("rows_per_batch: 24", "rows_per_batch: 25"),
        r"rows_per_batch must be a multiple of completions, found 25 and 6",
    ),
    ("heads", ("heads: 2, kv", "heads: 3, kv"), r"hidden / heads must be an even whole number"),
    (
        "too long for the context",
        ("new_tokens: 48", "new_tokens: 60"),
        r"must fit expert.train.context, found 68 and 64",
    ),
    ("an alias", ("name: small", "name: *a"), r":2:7: not valid YAML: aliases"),
    (
        "a tag",
        ("name: small", "name: !!python/name:os.system x"),
        r"the tag 'python/name:os.system' is not allowed",
    ),
    ("a merge key", ("mix: {", "mix: {<<: {seed: 1}, "), r"a field name must be plain text"),
    ("broken YAML", ("shards: {", "shards: {{"), r": not valid YAML: "),
    (
        "a list for a mapping",
        ("mix: {synthetic: 0.3, seed: 42}", "mix: [1]"),
        r"mix: must be .*found a list",
    ),
]


@pytest.mark.parametrize(
    ("change", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_a_mistake_is_named_with_its_place(
    tmp_path: Path, change: tuple[str, str], expected: str
) -> None:
    """file:line:column, the field, what was found, what is allowed."""
    assert change[0] in SMALL_RECIPE

    message = error_of(tmp_path, SMALL_RECIPE.replace(*change))

    assert re.search(expected, message), message


def test_a_missing_file_names_the_packaged_recipe(tmp_path: Path) -> None:
    """What is wrong, and what would work."""
    with pytest.raises(UsageError, match=r"nowhere.yaml: no such recipe; `cdgen build quickstart`"):
        load_recipe(tmp_path / "nowhere.yaml")


def test_a_yaml_bomb_is_refused_quickly(tmp_path: Path) -> None:
    """Depth, aliases and size are limited before anything is built."""
    assert "nested deeper than" in error_of(tmp_path, "[" * 5000)
    assert "aliases" in error_of(tmp_path, "a: &a [1]\nb: [*a, *a]\n")
    assert "too large" in error_of(tmp_path, "#" * (1 << 20 + 1))


@given(st.text(max_size=200) | st.binary(max_size=200))
@cases(2000)
def test_any_bytes_are_a_recipe_or_one_line(tmp_path: Path, content: str | bytes) -> None:
    """Never another exception."""
    file = tmp_path / "r.yaml"
    file.write_bytes(
        content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
    )

    with pytest.raises(UsageError) as caught:
        load_recipe(file)

    assert "\n" not in str(caught.value)


@given(data=st.data())
@cases(2000)
def test_a_mutated_recipe_is_a_recipe_or_one_line(tmp_path: Path, data: st.DataObject) -> None:
    """One character of a good recipe is changed at a time."""
    at = data.draw(st.integers(0, len(SMALL_RECIPE) - 1))
    character = data.draw(st.sampled_from("{}[]:,#&*!|>'\"%@`-?\n\t 0aé"))
    file = tmp_path / "r.yaml"
    file.write_text(SMALL_RECIPE[:at] + character + SMALL_RECIPE[at + 1 :], encoding="utf-8")

    message = ""
    try:
        load_recipe(file)
    except UsageError as error:
        message = str(error)

    assert "\n" not in message
