"""`cdgen init` writes a recipe that builds as it is, and never over anything."""

from pathlib import Path

import pytest

from cdgen.builders.plan import plan
from cdgen.builders.run import build
from cdgen.errors import UsageError
from cdgen.recipes.json_schema import SCHEMA_FILES
from cdgen.recipes.load import load_recipe
from cdgen.recipes.starter import UNKNOWN_LICENSE, copy_collection, init
from cdgen.resources import resource


def test_the_recipe_and_all_it_needs_lie_together(tmp_path: Path) -> None:
    """The recipe, its schema, the text and the text's licence notice: the folder can be moved."""
    written = init(tmp_path / "home/first.yaml")

    assert written[0] == tmp_path / "home/first.yaml"
    assert {str(path.relative_to(tmp_path / "home")) for path in written} == {
        "first.yaml",
        SCHEMA_FILES["recipe"],
        "tales/fairytales.txt.zst",
        "tales/NOTICE.md",
    }
    recipe = load_recipe(written[0]).recipe
    assert recipe.name == "first"
    assert not any(source.path and source.path.is_absolute() for source in recipe.text.sources)
    text = written[0].read_text(encoding="utf-8")
    assert text.startswith(f"# yaml-language-server: $schema={SCHEMA_FILES['recipe']}\n")
    assert text.count("#") > 15


def test_its_text_is_enough(tmp_path: Path) -> None:
    """The plan of the whole text misses no prefix."""
    file = init(tmp_path / "first.yaml")[0]

    counted = plan(file, tmp_path / "out", cache=tmp_path / "cache")

    assert counted.num_missing_prefixes == 0


def test_it_builds(tmp_path: Path, small_text: str) -> None:
    """Every section of it, on a shorter text and with smaller models."""
    (tmp_path / "tales.txt").write_text(small_text, encoding="utf-8")
    file = init(tmp_path / "first.yaml", tmp_path / "tales.txt")[0]
    smaller = [
        "tokenizer.train.vocab_size=400",
        "text.splits={train: 0.5, eval: 0.1, prefix: 0.4}",
        "expert.train.hidden=16",
        "expert.train.layers=1",
        "expert.train.ffn=32",
        "expert.train.context=64",
        "expert.train.batch_tokens=512",
        "expert.train.steps=8",
        "expert.train.warmup_steps=2",
        "expert.train.checkpoint_every=4",
        "amateur.checkpoint=4",
        "generate.prefix_tokens=8",
        "generate.new_tokens=48",
        "generate.rows_per_batch=24",
    ]

    report = build(load_recipe(file, set=smaller), tmp_path / "out", cache=tmp_path / "cache")

    assert report.num_synthetic_tokens > 0
    kept = (tmp_path / "out/recipe.yaml").read_text(encoding="utf-8")
    assert "hidden: 16" in kept and "# The strong model." in kept


def test_a_text_of_one_s_own_is_named_relative_to_the_recipe(tmp_path: Path) -> None:
    """Its licence is left to the user, and is not guessed."""
    (tmp_path / "data").mkdir()
    text = tmp_path / "data/It's my_Text 2.txt"
    text.write_text("One.\n\nTwo.\n", encoding="utf-8")

    source = load_recipe(init(tmp_path / "mine.yaml", text)[0]).recipe.text.sources[0]

    assert (source.name, str(source.path)) == ("it-s-my_text-2", "data/It's my_Text 2.txt")
    assert source.license == UNKNOWN_LICENSE
    assert not (tmp_path / "tales").exists()


def test_an_existing_file_is_never_overwritten(tmp_path: Path) -> None:
    """Neither the recipe nor a text in the tales' place; nothing else is written then."""
    (tmp_path / "a.yaml").write_text("mine")
    with pytest.raises(UsageError, match=r"a.yaml: is there already; name another file"):
        init(tmp_path / "a.yaml")

    (tmp_path / "tales").mkdir()
    (tmp_path / "tales/NOTICE.md").write_text("mine")
    with pytest.raises(UsageError, match=r"NOTICE.md: another file is there"):
        init(tmp_path / "b.yaml")

    assert sorted(path.name for path in tmp_path.rglob("*")) == ["NOTICE.md", "a.yaml", "tales"]
    assert (tmp_path / "a.yaml").read_text() == "mine"


def test_two_recipes_may_share_the_tales(tmp_path: Path) -> None:
    init(tmp_path / "a.yaml")

    assert init(tmp_path / "b.yaml") == [tmp_path / "b.yaml"]


def test_wrong_paths_are_answered(tmp_path: Path) -> None:
    """And nothing is written."""
    with pytest.raises(UsageError, match=r"nowhere.txt: no such text file"):
        init(tmp_path / "a.yaml", tmp_path / "nowhere.txt")
    with pytest.raises(UsageError, match=r"a recipe's name ends in .yaml"):
        init(tmp_path / "a.txt")
    (tmp_path / "x.docx").write_text("x")
    with pytest.raises(UsageError, match=r"^nothing was written: .*a.yaml:\d+:\d+: .*x.docx"):
        init(tmp_path / "a.yaml", tmp_path / "x.docx")

    assert [path.name for path in tmp_path.iterdir()] == ["x.docx"]


def test_a_folder_of_recipes_is_copied_with_its_schemas(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    written = copy_collection("methods")

    kept = resource("recipes", "methods/tail").parent
    assert {path.name for path in kept.glob("*.yaml")} <= {path.name for path in written}
    copied = (tmp_path / "recipes/methods/tail.yaml").read_text(encoding="utf-8")
    schema = copied.splitlines()[0].partition("$schema=")[2]
    assert (tmp_path / "recipes/methods" / schema).is_file()
    assert copied.splitlines()[1:] == (kept / "tail.yaml").read_text("utf-8").splitlines()[1:]
    with pytest.raises(UsageError, match="recipes/methods: is there already"):
        copy_collection("methods")
