"""Cut the mini study's texts from the corpora they come from: run once, before `cdgen sweep`.

    python prepare.py CORPORA [OUT]

CORPORA holds the files named in `CUTS` (README.md says where they come from); OUT is `data` beside this script by
default. Every file is read from its beginning to a number of bytes, then to the end of that line. `heldout-*.txt.zst`
is what comes after it, from the next document on: perplexity is measured there, in the proportions of the mix, and no
document lies on both sides. The same files give the same bytes.
"""

import sys
from pathlib import Path

import zstandard

MB = 1_000_000
CUTS = {
    "english": {
        "novels": (24 * MB, 200_000),
        "wikinews": (9 * MB, 75_000),
        "enwiki2018": (9 * MB, 75_000),
        "crd3": (15 * MB, 125_000),
        "fairytales": (None, 0),
    },
    "faroese": {"faroese": (21 * MB, 200_000)},
}
"""By study and file: bytes of the text, None for the whole file; bytes of held-out text after it."""


def main(corpora: Path, out: Path) -> None:
    """Write the texts and the held-out text of every study whose files are there."""
    out.mkdir(parents=True, exist_ok=True)
    for study, files in CUTS.items():
        missing = [name for name in files if not (corpora / f"{name}.txt.zst").is_file()]
        if missing:
            print(f"{study}: left out, {corpora} has no {', '.join(missing)} (.txt.zst)")
            continue
        held_out = []
        for name, (num_bytes, num_held_out) in files.items():
            whole = zstandard.ZstdDecompressor().stream_reader(
                (corpora / f"{name}.txt.zst").read_bytes()
            )
            text = whole.read()
            end = line_end(text, num_bytes) if num_bytes is not None else len(text)
            write(out / f"{name}.txt.zst", text[:end])
            after = text.find(b"\n\n", end) + 2 if num_held_out else len(text)
            held_out.append(text[after : line_end(text, after + num_held_out)].strip())
        write(out / f"heldout-{study}.txt.zst", b"\n\n".join(filter(None, held_out)) + b"\n")


def line_end(text: bytes, start: int) -> int:
    """Where the line that byte `start` lies in ends; the end of the text at most."""
    found = text.find(b"\n", start)
    return len(text) if found < 0 else found + 1


def write(path: Path, text: bytes) -> None:
    """Compress a text into a file."""
    path.write_bytes(zstandard.ZstdCompressor(level=10).compress(text))
    print(f"{path}: {len(text) / MB:.2f} MB")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit("usage: python prepare.py CORPORA [OUT]")
    main(
        Path(sys.argv[1]),
        Path(sys.argv[2] if len(sys.argv) == 3 else Path(__file__).parent / "data"),
    )
