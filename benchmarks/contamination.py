"""How fast text is searched for evaluation sets and for near-duplicates, and what memory that takes.

    python benchmarks/contamination.py --text news.txt.zst --text novels.txt.zst --against eval/blimp --words 100

Measured, each in a process of its own on one core, on shards of documents of about 2,000 characters:

    sets      reading the evaluation sets and numbering their n-grams of 13 words
    search    looking through the text for them, as a build does when it mixes
    near      near-duplicates (resemblance 0.8): the first half of the documents stand for real text

Every 1,000th document gets an item of the sets put into its middle; of the second half every 100th is a document of the
first half with one word in fifty replaced. What of these is found is printed. A text that is too short is repeated, and
`near` gets one pass of it at most. Words are those that are compared.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import count, cycle, islice
from pathlib import Path

import numpy as np

from cdgen.mixing.contamination import search
from cdgen.mixing.eval_sets import items
from cdgen.mixing.near import near_duplicates, signatures
from cdgen.mixing.word_grams import WordGrams
from cdgen.recipes.schema import Source
from cdgen.shards.layout import index_path, shard_name, shard_path
from cdgen.shards.npy import DTYPES
from cdgen.shards.reader import MappedShard
from cdgen.shards.sample import Meta, Sample, document_id, real_key
from cdgen.shards.similarity import shingles, words
from cdgen.shards.writer import ShardWriter
from cdgen.text.sources import read

NGRAM, THRESHOLD = 13, 0.8
DOCUMENT_CHARACTERS, SHARD_DOCUMENTS = 2_000, 4_096
PLANTED_EVERY, COPIED_EVERY, REPLACED_EVERY = 1_000, 100, 50


def main() -> None:
    """Parse the options, write the shards, measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--text", type=Path, action="append", required=True, help="blank-line text")
    parser.add_argument("--against", type=Path, action="append", required=True, help="a set")
    parser.add_argument("--words", type=float, default=10.0, help="10^6 words to search (10)")
    parser.add_argument("--near-words", type=float, default=2.0, help="10^6 words for near (2)")
    parser.add_argument("--json", type=Path, help="where the numbers go")
    parser.add_argument("--part", nargs=2, metavar=("NAME", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        print(json.dumps(_part(options, options.part[0], Path(options.part[1]))))
        return
    with tempfile.TemporaryDirectory() as folder:
        planted = _write(options, Path(folder))
        parts = {name: _run(name, folder) for name in ("sets", "search", "near")}
    found = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
        "planted": planted,
        **parts,
    }
    for name, part in found.items():
        print(name, json.dumps(part))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _run(name: str, folder: str) -> dict[str, float]:
    command = [sys.executable, __file__, *sys.argv[1:], "--part", name, folder]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _part(options: argparse.Namespace, name: str, folder: Path) -> dict[str, float]:
    """Measure one part in this process."""
    before = _peak_mb()
    if name == "near":
        measured = _near(options)
    else:
        clock = _Clock()
        grams = WordGrams([list(items(path)) for path in options.against], NGRAM)
        measured = {**clock.read(), "num_items": sum(grams.num_items)}
        if name == "search":
            measured = _search(grams, folder)
    return {**measured, "peak_mb": _peak_mb(), "of_which_imports_mb": before}


def _search(grams: WordGrams, folder: Path) -> dict[str, float]:
    names = [f"set {number}" for number in range(len(grams.num_items))]
    shards = [MappedShard(path) for path in sorted(folder.glob("data/real/*.tar"))]
    clock = _Clock()
    table = search(grams, names, shards)
    return {
        **clock.read(int((folder / "words").read_text())),
        "num_documents": sum(map(len, shards)),
        "num_found": len(set(table["key"].to_pylist())),
    }


def _near(options: argparse.Namespace) -> dict[str, float]:
    texts, total = [], 0
    for text in _documents(options.text):
        texts.append(text)
        total += len(words(text))
        if total >= options.near_words * 10**6:
            break
    half = len(texts) // 2
    copied = range(half, len(texts), COPIED_EVERY)
    for place in copied:
        texts[place] = _changed(texts[place - half])
    clock = _Clock()
    twins = near_duplicates(
        lambda number: shingles(texts[number]),
        signatures(map(shingles, texts)),
        threshold=THRESHOLD,
        num_fixed=half,
    )
    return {
        **clock.read(total),
        "num_documents": len(texts),
        "num_copied": len(copied),
        "num_copied_found": int((twins[list(copied)] >= 0).sum()),
        "num_found": int((twins >= 0).sum()),
    }


def _changed(text: str) -> str:
    """With other words here and there; the resemblance stays above the threshold where they are far apart."""
    parts = text.split(" ")
    for place in range(REPLACED_EVERY // 2, len(parts), REPLACED_EVERY):
        parts[place] = f"w{place}"
    return " ".join(parts)


def _write(options: argparse.Namespace, folder: Path) -> int:
    """Shards of the text with items put into it; how many were."""
    total = row = 0
    planting = cycle(item for path in options.against for item in items(path))
    documents = (text for _ in count() for text in _documents(options.text))
    while total < options.words * 10**6:
        name = shard_name("real", "train", "0" * 8, row // SHARD_DOCUMENTS)
        with ShardWriter(shard_path(folder, name), index_path(folder, name), DTYPES[0]) as writer:
            for text in islice(documents, SHARD_DOCUMENTS):
                if row % PLANTED_EVERY == 0:
                    middle = text.find(" ", len(text) // 2)
                    text = f"{text[:middle]} {next(planting)} {text[middle:]}"  # noqa: PLW2901
                total += len(words(text))
                writer.add(_sample(text, row))
                row += 1
    (folder / "words").write_text(str(total))
    return -(-row // PLANTED_EVERY)


def _sample(text: str, number: int) -> Sample:
    document = document_id(f"{number:064x}"[-24:], 0)
    meta = Meta(
        source="real", origin="text", license="LicenseRef-benchmark", document=document,
        end=len(text), split="train", num_tokens=1,
    )  # fmt: skip
    return Sample(key=real_key(document, 0), text=text, ids=np.zeros(1, DTYPES[0]), meta=meta)


def _documents(texts: list[Path]) -> Iterator[str]:
    """Pieces of about DOCUMENT_CHARACTERS of every document, one text after the other."""
    for path in texts:
        source = Source(name="text", path=path, license="LicenseRef-benchmark")
        for document in read([source], {"text": path}):
            for begin in range(0, len(document.text), DOCUMENT_CHARACTERS):
                piece = document.text[begin : begin + DOCUMENT_CHARACTERS].strip()
                if len(piece) > DOCUMENT_CHARACTERS // 2:
                    yield piece


class _Clock:
    """Seconds on the wall and of this process's CPU, which a busy machine does not stretch as much."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def read(self, num_words: int = 0) -> dict[str, float]:
        seconds, cpu_s = time.perf_counter() - self._wall, time.process_time() - self._cpu
        speeds = {"words_per_s": num_words / seconds, "words_per_cpu_s": num_words / cpu_s}
        return {"seconds": seconds, "cpu_s": cpu_s, "num_words": num_words, **speeds}


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


if __name__ == "__main__":
    main()
