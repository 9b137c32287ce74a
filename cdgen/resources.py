"""The recipes and builder profiles that come with cdgen, found by name.

An installed wheel carries them as package data (`cdgen/data/recipes`, `cdgen/data/builders`); in a
checkout, or an editable installation of one, they are the top-level folders of the same names. What
lies beside a file (the text a recipe reads, the script a profile starts) keeps its place in both.
"""

from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from cdgen.errors import BuildError, UsageError

Kind = Literal["recipes", "builders"]

_PACKAGE = Path(__file__).resolve().parent


def resource(kind: Kind, name: str) -> Path:
    """The YAML file called `name` among the recipes or builder profiles that come with cdgen.

    Raises `UsageError`, which lists the names there are, when there is no such file. A name is never
    taken as a path.
    """
    known = names(kind)
    if name not in known:
        raise UsageError(_unknown(kind, name, known))
    return _folder(kind) / f"{name}.yaml"


def names(kind: Kind) -> tuple[str, ...]:
    """The names `resource` knows: those at the top first, then those of folders of recipes, such as paper/baseline."""
    folder = _folder(kind)
    files = folder.rglob("*.yaml") if kind == "recipes" else folder.glob("*.yaml")
    found = (file.relative_to(folder).with_suffix("").as_posix() for file in files)
    return tuple(sorted(found, key=lambda name: (name.count("/"), name)))


def collection(name: str) -> Path:
    """The folder called `name` among the recipes that come with cdgen, such as paper.

    Raises `UsageError`, which lists the folders there are, when there is none.
    """
    known = collections()
    if name not in known:
        raise UsageError(f"cdgen has no folder of recipes {name!r}; it has: {', '.join(known)}")
    return _folder("recipes") / name


def collections() -> tuple[str, ...]:
    """The folders of recipes that come with cdgen."""
    return tuple(sorted({name.split("/")[0] for name in names("recipes") if "/" in name}))


def _folder(kind: Kind) -> Path:
    packaged = _PACKAGE / "data" / kind
    if packaged.is_dir():
        return packaged
    checkout = _PACKAGE.parent
    # Without this test a folder of that name in somebody's site-packages would be taken for ours.
    if (checkout / "pyproject.toml").is_file() and (checkout / kind).is_dir():
        return checkout / kind
    raise BuildError(f"{packaged}: missing from this installation; reinstall cdgen")


def _unknown(kind: Kind, name: str, known: tuple[str, ...]) -> str:
    one = {"recipes": "recipe", "builders": "builder profile"}[kind]
    near = get_close_matches(name, known, n=1)
    guess = f"; did you mean {near[0]!r}?" if near else "."
    top = [found for found in known if "/" not in found]
    folders = sorted({found.split("/")[0] for found in known if "/" in found})
    more = f", and those in {', '.join(folders)} (`cdgen init --list`)" if folders else ""
    return (
        f"cdgen has no {one} {name!r}{guess} It has: {', '.join(top)}{more}. "
        "A path to a file works too."
    )
