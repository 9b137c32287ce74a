"""What the site has beyond the pages in docs/: files from elsewhere in the repository, and pages made from the program.

Links in docs/ are those of the repository, so that they work there; here they are turned to the site's pages.
"""

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import typer.core
import typer.main
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from cdgen.cli import app

ROOT = Path(__file__).resolve().parents[2]
COPIED = {
    "format.md": "shards/FORMAT.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
}
"""Pages that are files outside of docs/."""
PLACES = {
    **{path: page for page, path in COPIED.items()},
    "README.md": "index.md",
    "recipes": "packaged-recipes.md",
    "recipes/amateurs": "packaged-recipes.md#recipesamateurs",
    "recipes/methods": "packaged-recipes.md#recipesmethods",
}
"""Where a path of the repository is on the site."""

_LINK = re.compile(r"\]\((?!https?://|mailto:)([^)#\s]+)(#[^)\s]*)?\)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add every result and decision to the navigation."""
    for title, folder in (("Results", "results"), ("Decisions", "decisions")):
        pages = sorted((ROOT / "docs" / folder).glob("*.md"))
        config.nav.append({title: [f"{folder}/{page.name}" for page in pages]})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not files in docs/."""
    made: dict[str, Callable[[], str]] = {"commands.md": commands, "packaged-recipes.md": recipes}
    contents = {page: (ROOT / path).read_text(encoding="utf-8") for page, path in COPIED.items()}
    contents |= {page: make() for page, make in made.items()}
    for page, content in contents.items():
        files.append(File.generated(config, page, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Turn links of the repository to the site's pages; a file that is no page is named instead."""
    source = page.file.src_uri
    here = PurePosixPath(COPIED.get(source, f"docs/{source}")).parent

    def turned(link: re.Match[str]) -> str:
        path = os.path.normpath(here / link[1])
        if path in PLACES:
            target = PLACES[path]
        elif path.startswith("docs/"):
            target = path.removeprefix("docs/")
            if not (ROOT / path).is_file() or not path.endswith(".md"):
                return f"] (`{path}`)" if (ROOT / path).exists() else link[0]
        elif (ROOT / path).exists():
            return f"] (`{path}`)"
        else:
            return link[0]
        return f"]({os.path.relpath(target, PurePosixPath(source).parent)}{link[2] or ''})"

    return _LINK.sub(turned, markdown)


def commands() -> str:
    """Every verb with its arguments and options, as `--help` has them."""
    group = typer.main.get_command(app)
    assert isinstance(group, typer.core.TyperGroup)
    verbs = (command for command in group.commands.values() if not command.hidden)
    head = "# Commands\n\nWhat `cdgen --help` and the help of each command say."
    return "\n\n".join([head, *(section for verb in verbs for section in _verb(verb))]) + "\n"


def _verb(verb: Any) -> Iterator[str]:
    about, *examples = re.split(r"\s*Example: ", verb.help or "")
    yield f"## `cdgen {verb.name}`"
    yield about.strip().replace("<", "&lt;")
    yield "\n".join(["```sh", *examples, "```"])
    rows = [
        f"| `{_escaped(name)}` | {_cell(parameter)} |"
        for parameter in verb.params
        if (name := _name(parameter)) != "--help"
    ]
    yield "\n".join(["| argument | is |", "|---|---|", *rows])


def _name(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return str(parameter.metavar or parameter.name.upper())
    return ", ".join([*parameter.opts, *parameter.secondary_opts])


def _cell(parameter: Any) -> str:
    text = " ".join(str(getattr(parameter, "help", "") or "").split())
    return _escaped(text).replace("<", "&lt;")


def _escaped(text: str) -> str:
    """Without ends of a table's cell."""
    return text.replace("|", "\\|")


def recipes() -> str:
    """The recipes that come with cdgen, whole."""
    about = (
        "The recipes of `recipes/`, by name: `cdgen build amateurs/early_exit`. Each of these builds as it is; what is "
        "in `recipes/paper` and `recipes/mini` needs text of yours, and `cdgen init --copy paper` copies them."
    )
    parts = ["# Packaged recipes", about]
    for name in ("recipes", "recipes/amateurs", "recipes/methods"):
        parts.append(f"## {name}")
        parts += [_recipe(file) for file in sorted((ROOT / name).glob("*.yaml"))]
    return "\n\n".join(parts) + "\n"


def _recipe(file: Path) -> str:
    return f"### {file.stem}\n\n```yaml\n{file.read_text(encoding='utf-8').strip()}\n```"
