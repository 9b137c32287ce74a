"""`cdgen init RECIPE --builder NAME`: a packaged profile and what starts a cluster for it, written beside a recipe."""

import re
from dataclasses import dataclass
from pathlib import Path

from cdgen.builders.profile import Profile
from cdgen.errors import UsageError
from cdgen.recipes.json_schema import SCHEMA_FILES, schema_text
from cdgen.resources import resource
from cdgen.storage import atomic_write

_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\.ya?ml")


@dataclass(frozen=True, slots=True)
class Launch:
    """What starts a builder's cluster: a file of builders/launch/, and the command that uses it."""

    file: str
    command: str


LAUNCHES = {
    "kuberay": Launch("rayjob.yaml", "kubectl apply -f rayjob.yaml"),
    "ray-cluster": Launch("ray-up.yaml", "ray up ray-up.yaml"),
    "slurm": Launch("slurm.sh", "sbatch slurm.sh"),
}
"""By the name of the builder profile. The others need nothing but themselves."""


def write_launch(builder: str, recipe: Path) -> list[Path]:
    """Write a builder's profile, its schema and its launch file into the recipe's folder; returns what was written.

    The launch file names the recipe, which need not be there yet. A file that is there already and is the same stays.

    Raises:
        UsageError: no such builder, another file by one of the names, or a recipe whose name a shell would not take
            as it is. Nothing is written then.
    """
    if not _PLAIN.fullmatch(recipe.name):
        raise UsageError(
            f"{recipe.name!r}: launch files name the recipe in shell commands; "
            "use letters, digits, '.', '_' and '-', and end in .yaml"
        )
    profile = resource("builders", builder)
    wanted = {
        recipe.parent / profile.name: profile.read_bytes(),
        recipe.parent / SCHEMA_FILES["builder"]: schema_text(Profile).encode(),
    }
    launch = LAUNCHES.get(builder)
    if launch is not None:
        text = (profile.parent / "launch" / launch.file).read_text(encoding="utf-8")
        wanted[recipe.parent / launch.file] = _for_recipe(text, recipe).encode()
    new = {path: data for path, data in wanted.items() if not _holds(path, data)}
    for path in new:
        if path.exists() and path.name != SCHEMA_FILES["builder"]:
            raise UsageError(f"{path}: another file is there; move it, or choose another folder")
    for path, data in new.items():
        atomic_write(path, data)
    return list(new)


def _for_recipe(text: str, recipe: Path) -> str:
    """The packaged files speak of recipe.yaml, whose corpus is called tales."""
    return text.replace("/tales", f"/{recipe.stem}").replace("recipe.yaml", recipe.name)


def _holds(path: Path, data: bytes) -> bool:
    return path.is_file() and path.read_bytes() == data
