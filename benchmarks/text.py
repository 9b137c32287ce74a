"""How fast the text stage is, beside what it cannot beat, in one run.

    python benchmarks/text.py --mb 200                        # text generated from the packaged tales
    python benchmarks/text.py --mb 1000 --text big.txt        # your own, blank-line documents, repeated or cut to size

Measured, each in a process of its own, from a plain text file with 32,000 tokens in the vocabulary:

    read      documents out of the file, each one hashed (SHA-256) twice: what naming and dividing them needs
    encode    the tokenizers library alone on all cores: encode_batch_fast, without even taking the ids out
    stage     write_text: from the file to finished shards, indexes and prefix table on disk

MB are 10^6 bytes of source text. Peak memory is the process's own, the interpreter and its libraries included.
"""

import argparse
import json
import os
import platform
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

from cdgen.recipes.schema import Source, Text, TokenizerTraining
from cdgen.resources import resource as packaged
from cdgen.text.prepare import write_text
from cdgen.text.sides import batches, place
from cdgen.text.sources import Document, read
from cdgen.text.splits import document_id, side
from cdgen.text.tokenizer import Tokenizer, tokenizer_files, train_tokenizer

VOCABULARY = 32_000
DOCUMENT_CHARACTERS = 2_000
NEW_WORD_SHARE = 0.01
"""Of generated text: words that never stood there before, as names and misspellings do."""
TRAINING_MB = 20


def main() -> None:
    """Parse the options, measure, print a table and write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--mb", type=int, default=200, help="size of the text, 10^6 bytes (200)")
    parser.add_argument("--encode-mb", type=int, default=40, help="of it for the encode floor (40)")
    parser.add_argument("--text", type=Path, help="real text with blank-line documents")
    parser.add_argument("--json", type=Path, help="where the numbers go")
    parser.add_argument("--part", nargs=2, metavar=("NAME", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        print(json.dumps(_part(options.part[0], Path(options.part[1]), options.encode_mb)))
        return
    with tempfile.TemporaryDirectory() as folder:
        found = _measure(options, Path(folder))
    _print(found)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _measure(options: argparse.Namespace, folder: Path) -> dict[str, object]:
    text = folder / "text.txt"
    with text.open("w", encoding="utf-8") as file:
        file.writelines(_texts(options.text, options.mb * 10**6))
    training = (document.text for document in _up_to(_documents(text), TRAINING_MB))
    backend = train_tokenizer(training, TokenizerTraining(vocab_size=VOCABULARY))
    for name, content in tokenizer_files(backend, context=1024).items():
        (folder / name).write_bytes(content)
    parts = {
        name: [_run(name, folder, options.encode_mb) for _ in range(1 + (name != "stage"))]
        for name in ("encode", "read", "stage")
    }
    best = {name: max(runs, key=lambda run: run["mb_per_s"]) for name, runs in parts.items()}
    return {
        "mb": options.mb,
        "text": "given" if options.text else "generated",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
        "python": platform.python_version(),
        "packages": {name: version(name) for name in ("tokenizers", "pyarrow", "numpy", "xxhash")},
        "stage_to_encode": best["stage"]["mb_per_s"] / best["encode"]["mb_per_s"],
        "stage_to_read": best["stage"]["mb_per_s"] / best["read"]["mb_per_s"],
        "parts": best,
    }


def _run(name: str, folder: Path, encode_mb: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--part", name, str(folder), "--encode-mb", str(encode_mb)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _part(name: str, folder: Path, encode_mb: int) -> dict[str, float]:
    """Measure one part in this process."""
    tokenizer = Tokenizer.load(folder)
    parts: dict[str, Callable[[], int]] = {
        "read": lambda: _read(folder),
        "encode": lambda: _encode(folder, tokenizer, encode_mb),
        "stage": lambda: _stage(folder, tokenizer),
    }
    begun, begun_cpu = time.perf_counter(), time.process_time()
    num_bytes = parts[name]()
    seconds, cpu = time.perf_counter() - begun, time.process_time() - begun_cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "mb_per_s": num_bytes / seconds / 1e6,
        "mb_per_cpu_s": num_bytes / cpu / 1e6,
        "seconds": seconds,
        "peak_mb": peak / 1e6,
    }


def _read(folder: Path) -> int:
    splits = Text(sources=(_source(folder / "text.txt"),)).splits
    for document in _documents(folder / "text.txt"):
        document_id(document.source, document.text)
        side(document.text, splits)
    return (folder / "text.txt").stat().st_size


def _encode(folder: Path, tokenizer: Tokenizer, most_mb: int) -> int:
    num_bytes = 0
    for batch in batches(_up_to(_documents(folder / "text.txt"), most_mb)):
        texts = [document.text for document in batch]
        tokenizer.backend.encode_batch_fast(texts, add_special_tokens=False)
        num_bytes += sum(len(text.encode()) for text in texts)
    return num_bytes


def _stage(folder: Path, tokenizer: Tokenizer) -> int:
    path = folder / "text.txt"
    text, out = Text(sources=(_source(path),)), folder / "out"
    placed = place(text, {"text": path})
    write_text(
        placed, text, tokenizer, out, digest="0" * 64, documents=4096, prefixes=out / "p.parquet"
    )
    return path.stat().st_size


def _source(path: Path) -> Source:
    return Source(name="text", path=path, license="LicenseRef-benchmark")


def _documents(path: Path) -> Iterator[Document]:
    return read([_source(path)], {"text": path})


def _up_to(documents: Iterator[Document], mb: int) -> Iterator[Document]:
    left = mb * 10**6
    for document in documents:
        yield document
        left -= len(document.text)
        if left <= 0:
            return


def _texts(given: Path | None, num_bytes: int) -> Iterator[str]:
    """Documents with a blank line after each, until there are `num_bytes` of them."""
    while num_bytes > 0:
        before = num_bytes
        for text in (d.text for d in _documents(given)) if given else _generated():
            yield f"{text}\n\n"
            num_bytes -= len(text.encode()) + 2
            if num_bytes <= 0:
                return
        if before == num_bytes:
            raise SystemExit(f"{given}: no text")


def _generated() -> Iterator[str]:
    """Sentences of the packaged tales in random order, some words replaced by new ones, without end."""
    tales = packaged("recipes", "quickstart").parent / "quickstart/fairytales.txt.zst"
    sentences = re.split(
        r"(?<=[.!?])\s+", " ".join(document.text for document in _documents(tales))
    )
    draw = random.Random(0)  # noqa: S311 - repeatable text, no secret
    while True:
        text = ""
        while len(text) < DOCUMENT_CHARACTERS:
            words = draw.choice(sentences).split(" ")
            for place_ in range(len(words)):
                if draw.random() < NEW_WORD_SHARE:
                    words[place_] = "".join(
                        draw.choices("abcdefghiklmnoprstuvw", k=draw.randint(4, 10))
                    )
            text += " ".join(words) + " "
        yield text.strip()


def _print(found: dict[str, object]) -> None:
    print(f"{found['mb']} MB of {found['text']} text; {found['machine']}")
    print(f"{'':8}{'MB/s':>8}{'MB per CPU s':>14}{'peak MB':>9}")
    parts: dict[str, dict[str, float]] = found["parts"]  # type: ignore[assignment]
    for name, part in parts.items():
        print(f"{name:8}{part['mb_per_s']:8.1f}{part['mb_per_cpu_s']:14.1f}{part['peak_mb']:9.0f}")
    print(
        f"stage / encode {found['stage_to_encode']:.2f}, stage / read {found['stage_to_read']:.2f}"
    )


if __name__ == "__main__":
    main()
