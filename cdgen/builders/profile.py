"""Builder profiles: where a recipe is built. Strict YAML like recipes; nothing in them can change a byte."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from cdgen.recipes.load import load_recipe, load_strict
from cdgen.recipes.schema import Name, Spec


class Profile(Spec):
    """One place to build in."""

    version: Literal[1]
    """Of the profile format."""
    name: Name
    """How `--builder` names it."""
    description: str = ""
    """For people."""
    engine: Literal["local"]
    """local: this process, one job after the other."""


def load_profile(file: Path, changes: Sequence[str] = ()) -> Profile:
    """Read and check a builder profile, with `field=value` changes; UsageError with file:line:column."""
    what = "builder profile; the packaged one is called local"
    return load_strict(file, Profile, what, changes)[0]


def check_file(file: Path, changes: Sequence[str] = ()) -> tuple[str, str]:
    """(kind, name) of a valid recipe or builder profile, after `changes`; UsageError for anything else."""
    if _has_engine(file):
        return "builder profile", load_profile(file, changes).name
    return "recipe", load_recipe(file, set=changes).recipe.name


def _has_engine(file: Path) -> bool:
    """Only a profile has a top-level field `engine`; a recipe has none."""
    try:
        with file.open(encoding="utf-8") as stream:
            return any(line.startswith("engine:") for line in stream)
    except (OSError, UnicodeDecodeError):
        return False
