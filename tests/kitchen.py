"""A folder in which the tests of mixing build: one text, a warm cache, two corpora, and how to look at them."""

import hashlib
import shutil
from pathlib import Path

from small import SMALL_RECIPE

from cdgen import open_corpus
from cdgen.builders.report import Report
from cdgen.builders.run import build

PLAIN = "mix: {synthetic: 0.3, seed: 42}"
FILTERS = "filters: {min_tokens: 24, max_repetition: 0.06}\n"


class Kitchen:
    """A folder with the text, a warm cache and two corpora of one text: cd and, without contrast and cold, plain."""

    def __init__(self, home: Path, text: str) -> None:
        self.home = home
        (home / "tales.txt").write_text(text, encoding="utf-8")
        self.cd = self.build("cd")[0]
        self.plain = self.build("plain", ("lambda: 1.0", "lambda: 0.0, score_temperature: 0.1"))[0]

    def build(self, name: str, *changes: tuple[str, str], out: str = "") -> tuple[Path, Report]:
        """(folder, report) of the small recipe with these changes."""
        text = SMALL_RECIPE
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        recipe = self.home / f"{name}.yaml"
        recipe.write_text(text, encoding="utf-8")
        folder = self.home / (out or name)
        return folder, build(recipe, folder, cache=self.home / "cache")

    def with_decoded(self, name: str) -> Path:
        """A folder in which the decoding of cd is there already, under another name."""
        shutil.copytree(self.cd, self.home / name)
        return self.home / name


def hashes(folder: Path, kind: str) -> dict[str, str]:
    """sha256 of every shard of a kind and of its index."""
    files = [*folder.glob(f"data/{kind}/*.tar"), *folder.glob(f"index/{kind}-*.parquet")]
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def tree(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def keys(folder: Path, kind: str) -> list[str]:
    """The keys of all samples of a kind, in order."""
    return [sample.key for sample in open_corpus(folder).samples(kind)]


def changed(line: str) -> tuple[str, str]:
    """The small recipe's mix line, replaced."""
    return PLAIN, line


def also_line(share: float, corpus: str = "plain", synthetic: float = 0.2) -> tuple[str, str]:
    """A mix line with another corpus."""
    return changed(f"mix: {{synthetic: {synthetic}, also: [{{corpus: {corpus}, share: {share}}}]}}")
