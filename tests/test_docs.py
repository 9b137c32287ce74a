"""What is written for people agrees with the program: links, commands, options, messages; the site builds strictly."""

import ast
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.core
import typer.main

CHECKOUT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    path
    for path in (
        *CHECKOUT.glob("*.md"),
        *(CHECKOUT / "docs").rglob("*.md"),
        CHECKOUT / "shards/FORMAT.md",
    )
)
SITE = CHECKOUT / "docs/site/mkdocs.yml"


def name_of(page: Path) -> str:
    return str(page.relative_to(CHECKOUT))


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


# ---- links ----


def anchors(page: Path) -> set[str]:
    """What a page's headings are called in links."""
    found = re.findall(r"^#+ (.*)$", text_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in found}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?://|mailto:)([^)#\s]*)(?:#([^)\s]*))?\)", text_of(page))
    broken = [
        f"{path}#{anchor}"
        for path, anchor in links
        if not (page.parent / path).exists()
        or (anchor and anchor not in anchors(page.parent / path if path else page))
    ]

    assert broken == []


def test_the_site_builds_strictly_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    """A link to nothing, a page without a place or a missing anchor stops the build."""
    pytest.importorskip(
        "material", reason="mkdocs-material is not installed: pip install 'cdgen[docs]'"
    )
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-f", SITE, "-d", tmp_path],
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert {"index.html", "guide.html", "commands.html", "format.html", "errors.html"} <= {
        str(page.relative_to(tmp_path)) for page in pages
    }
    loaded = re.compile(r"<(?:script|img|link)[^>]*(?:src|href)=\"?(?:https?:)?//[^>]*>")
    for page in pages:
        assert [found for found in loaded.findall(text_of(page)) if "canonical" not in found] == []


# ---- commands ----


def group() -> typer.core.TyperGroup:
    from cdgen.cli import app

    found = typer.main.get_command(app)
    assert isinstance(found, typer.core.TyperGroup)
    return found


def commands_in(page: Path) -> Iterator[list[str]]:
    """The words of every `cdgen …` that a page shows, in code spans and at the beginning of code lines."""
    text = text_of(page)
    spans = re.findall(r"`(?:\$ )?(cdgen [^`\n]*)`", text)
    lines = re.findall(r"^(?: {4}|\$ )?(cdgen (?!:).*)$", text, re.MULTILINE)
    for shown in {*spans, *lines}:
        try:
            yield shlex.split(shown, comments=True)
        except ValueError:  # a sentence with an apostrophe
            yield shown.split()


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=name_of
)
def test_every_command_that_is_shown_exists_with_its_options(page: Path) -> None:
    verbs = group().commands
    wrong = []
    for words in commands_in(page):
        if len(words) < 2 or not re.fullmatch(r"[a-z]+", words[1]):
            continue  # `cdgen --help`, `cdgen VERB`
        verb = verbs.get(words[1])
        options = [word.partition("=")[0] for word in words[2:] if word.startswith("-")]
        known = {"--help"} | {
            name
            for one in (verb.params if verb else ())
            for name in (*one.opts, *one.secondary_opts)
        }
        wrong += [" ".join(words)] if verb is None or not set(options) <= known else []

    assert wrong == []


def test_every_verb_is_in_the_guide_or_another_page_of_docs() -> None:
    shown = {
        words[1]
        for page in PAGES
        if "docs" in page.parts
        for words in commands_in(page)
        if len(words) > 1
    }

    assert [
        name for name, verb in group().commands.items() if not verb.hidden and name not in shown
    ] == []


# ---- messages ----


def templates() -> set[str]:
    """Every text in the source, with … for what is filled in."""
    found = set()
    for file in (CHECKOUT / "cdgen").rglob("*.py"):
        for node in ast.walk(ast.parse(text_of(file))):
            if isinstance(node, ast.JoinedStr):
                found.add("".join(_part(value) for value in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
    return {" ".join(text.split()) for text in found}


def _part(value: ast.expr) -> str:
    return str(value.value) if isinstance(value, ast.Constant) else "…"


def quoted_messages() -> list[str]:
    return re.findall(r"^### `([^`]+)`$", text_of(CHECKOUT / "docs/errors.md"), re.MULTILINE)


def test_every_message_that_is_explained_is_one_of_the_program_s() -> None:
    """Each piece between two … stands in a text of the source, and one piece is long enough to mean something."""
    known = templates()
    gone = []
    for message in quoted_messages():
        pieces = [piece.strip(" :") for piece in message.split("…") if re.search(r"\w", piece)]
        assert max(map(len, pieces)) >= 12, f"{message}: says too little to be found"
        gone += [piece for piece in pieces if not any(piece in text for text in known)]

    assert len(quoted_messages()) > 30
    assert gone == []


# ---- completion ----


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("cdgen ", {"build", "init", "verify", "publish"}),
        ("cdgen pre", {"preview"}),
        ("cdgen init --", {"--from", "--text", "--json"}),
        ("cdgen build --s", {"--set"}),
        ("cdgen schema ", {"recipe", "builder"}),
    ],
)
def test_the_shell_completes_verbs_options_and_choices(line: str, expected: set[str]) -> None:
    """As bash asks for it: the words so far and the place of the cursor, in the environment."""
    done = subprocess.run(
        [Path(sys.executable).parent / "cdgen"],
        env={
            **os.environ,
            "_CDGEN_COMPLETE": "complete_bash",
            "COMP_WORDS": line,
            "COMP_CWORD": str(len(line.split(" ")) - 1),
        },
        capture_output=True,
        text=True,
        check=True,
    )

    offered = set(done.stdout.split())
    assert expected <= offered
    prefix = line.rpartition(" ")[2]
    assert all(one.startswith(prefix) for one in offered)
