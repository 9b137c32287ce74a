"""Builder profiles: where a recipe is built. Strict YAML like recipes; nothing in them can change a byte."""

from pathlib import Path
from typing import Literal

from cdgen.recipes.load import load_recipe, load_strict
from cdgen.recipes.schema import Name, Spec


class Profile(Spec):
    """One place to build in."""

    version: Literal[1]
    name: Name
    description: str = ""
    engine: Literal["local"]
    """local: this process, one job after the other."""


def load_profile(file: Path) -> Profile:
    """Read and check a builder profile; UsageError with file:line:column."""
    return load_strict(file, Profile, "builder profile; the packaged one is called local")[0]


def check_file(file: Path) -> tuple[str, str]:
    """(kind, name) of a valid recipe or builder profile; UsageError for anything else."""
    if _has_engine(file):
        return "builder profile", load_profile(file).name
    return "recipe", load_recipe(file).recipe.name


def _has_engine(file: Path) -> bool:
    """Only a profile has a top-level field `engine`; a recipe has none."""
    try:
        with file.open(encoding="utf-8") as stream:
            return any(line.startswith("engine:") for line in stream)
    except (OSError, UnicodeDecodeError):
        return False
