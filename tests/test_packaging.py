"""What a user installs: the wheel's contents, how `cdgen` starts, and what its help says."""

import json
import os
import resource
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import typer.core
import typer.main

import cdgen

CHECKOUT = Path(__file__).resolve().parents[1]
HEAVY = ("torch", "ray", "transformers", "datasets", "webdataset", "pyarrow")
HELP_LIMIT_S = 0.5


@pytest.fixture(scope="module")
def wheel() -> Path:
    """The wheel that `make test` built and installed."""
    path = os.environ.get("CDGEN_WHEEL")
    if not path:
        pytest.skip("CDGEN_WHEEL is not set: `make test` builds the wheel and names it there")
    return Path(path)


@pytest.fixture(scope="module")
def packed(wheel: Path) -> list[str]:
    """The names of the files in the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def verbs() -> list[str]:
    """The command line's verbs, as typer knows them."""
    from cdgen.cli import app

    group = typer.main.get_command(app)
    assert isinstance(group, typer.core.TyperGroup)
    return sorted(name for name, command in group.commands.items() if not command.hidden)


def run_cdgen(*arguments: str) -> str:
    """The standard output of `cdgen ARGUMENTS`, which must succeed."""
    program = Path(sys.executable).parent / "cdgen"
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def children_s() -> float:
    """The processor time of this process's finished children so far."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def loaded_by(code: str) -> list[str]:
    """The heavy packages that a fresh interpreter has loaded after `code`."""
    report = f"import json, sys; print(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}"], capture_output=True, text=True, check=True
    )
    heavy: list[str] = json.loads(done.stdout.splitlines()[-1])
    return heavy


def test_the_wheel_has_one_top_level_name(packed: list[str]) -> None:
    tops = {name.split("/")[0] for name in packed}

    assert {top for top in tops if not top.endswith(".dist-info")} == {"cdgen"}


def test_the_wheel_carries_every_recipe_and_builder_file_of_the_checkout(packed: list[str]) -> None:
    for kind in ("recipes", "builders"):
        files = [file for file in (CHECKOUT / kind).rglob("*") if file.is_file()]
        expected = {f"cdgen/data/{file.relative_to(CHECKOUT).as_posix()}" for file in files}

        assert expected, f"{kind}/ is empty"
        assert expected <= set(packed)


def test_the_wheel_can_build_the_quickstart(packed: list[str]) -> None:
    assert "cdgen/data/recipes/quickstart.yaml" in packed
    assert "cdgen/data/recipes/quickstart/fairytales.txt.zst" in packed
    assert "cdgen/data/recipes/quickstart/NOTICE.md" in packed


def test_the_wheel_can_write_a_first_recipe(packed: list[str]) -> None:
    assert "cdgen/recipes/starter.yaml" in packed
    assert "cdgen/recipes/starter_given.yaml" in packed
    assert "cdgen/data/recipes/recipe.schema.json" in packed


def test_the_wheel_carries_licence_notice_and_types(packed: list[str]) -> None:
    dist_info = f"cdgen-{cdgen.__version__}.dist-info"

    assert f"{dist_info}/licenses/LICENSE" in packed
    assert f"{dist_info}/licenses/NOTICE" in packed
    assert "cdgen/py.typed" in packed


def test_the_suite_runs_on_the_installed_wheel_and_not_on_the_checkout(wheel: Path) -> None:
    assert wheel.name.startswith(f"cdgen-{cdgen.__version__}-")
    assert not Path(cdgen.__file__).resolve().is_relative_to(CHECKOUT / "cdgen")


def test_import_loads_nothing_heavy() -> None:
    assert loaded_by("import cdgen") == []


def test_help_loads_nothing_heavy() -> None:
    code = """
import sys
from cdgen.cli import main
sys.argv = ["cdgen", "--help"]
try:
    main()
except SystemExit as stop:
    assert not stop.code, stop.code
"""

    assert loaded_by(code) == []


def test_help_is_quick() -> None:
    """Best of several, in processor time: waiting for the suite's other processes is not counted."""
    took_s = []
    for _ in range(5):
        before_s = children_s()
        run_cdgen("--help")
        took_s.append(children_s() - before_s)
        if took_s[-1] < HELP_LIMIT_S:
            break

    assert min(took_s) < HELP_LIMIT_S


def test_help_names_every_verb() -> None:
    text = run_cdgen("--help")

    assert [verb for verb in verbs() if verb not in text] == []


@pytest.mark.parametrize("verb", verbs())
def test_every_verb_shows_examples_that_can_be_copied(verb: str) -> None:
    """Each is one line, however long."""
    text = run_cdgen(verb, "--help")

    (examples,) = (part for part in text.split("\n\n") if part.startswith("  Example: "))
    assert all(line.startswith(f"  Example: cdgen {verb}") for line in examples.splitlines())


def test_the_readme_mentions_every_verb() -> None:
    readme = (CHECKOUT / "README.md").read_text(encoding="utf-8")

    assert [verb for verb in verbs() if f"cdgen {verb}" not in readme] == []
