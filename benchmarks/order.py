"""The order of a stream: how well each shuffle mixes, what it costs, and a source of 10^9 documents.

    python benchmarks/order.py [--json order.json]

Sources are simulated: what a document's index says is computed, nothing is read from a disk. Each part runs in a
process of its own, so that its peak memory is its own.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from cdgen.streaming.cut import cut
from cdgen.streaming.line import Line, Rows
from cdgen.streaming.merged import Merged
from cdgen.streaming.order import WINDOW_SHARDS, permutation

PER_SHARD = 4096
BLOCK = 2048


class Simulated:
    """A source of equal shards whose documents have 300 to 500 tokens."""

    def __init__(self, name: str, num_documents: int) -> None:
        self.name = name
        self.sizes = 300 + permutation(PER_SHARD, "sizes", name) % 201
        shards = -(-num_documents // PER_SHARD)
        self.num_documents = np.full(shards, PER_SHARD)
        self.num_tokens = np.full(shards, int(self.sizes.sum()))

    def rows(self, shards: list[int]) -> list[Rows]:
        """Every shard has the same lengths, turned by its number."""
        every = (np.roll(self.sizes, shard) for shard in shards)
        return [Rows(sizes, np.cumsum(sizes) - sizes, np.zeros_like(sizes)) for sizes in every]

    def longest(self) -> int:
        """Tokens."""
        return int(self.sizes.max())

    def release(self, shards: list[int]) -> None:
        """Nothing is held."""


def quality(num_documents: int) -> dict[str, object]:
    """Displacement and neighbours of both shuffles beside a full permutation.

    displacement: the mean way of a document from its place in the files, over that of a full permutation (1/3 of all).
    same_shard: how often the next document is of the same shard, over how often it would be by chance.
    batch_shards: different shards among 256 documents in a row, over the number by chance.
    """
    found = {}
    for name in ("windows", "corpus", "full permutation"):
        if name == "full permutation":
            place = permutation(num_documents, "full", 1)
            shard = place // PER_SHARD
        else:
            source = Simulated("real", num_documents)
            documents = Line(source, 1, shuffle=name, kept_documents=10**9).documents(
                0, int(source.num_tokens.sum())
            )
            shard, place = documents.shard, documents.shard * PER_SHARD + documents.row
        count = len(place)
        shards = count // PER_SHARD
        whole = shard[: count // 256 * 256].reshape(-1, 256)
        different = np.mean([len(np.unique(batch)) for batch in whole[:4000]])
        chance = shards * (1 - (1 - 1 / shards) ** 256)
        found[name] = {
            "displacement": float(np.abs(place - np.arange(count)).mean() / (count / 3)),
            "same_shard": float((shard[1:] == shard[:-1]).mean() * shards),
            "batch_shards": float(different / chance),
        }
    return {"documents": num_documents, "window_shards": WINDOW_SHARDS, **found}


def cost(shuffle: str, num_documents: int) -> dict[str, object]:
    """Milliseconds to blocks far apart, and the memory of this process before and after."""
    import_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    lines = [
        Line(Simulated(name, num_documents), 1, shuffle=shuffle) for name in ("real", "synthetic")
    ]
    merged = Merged(lines, [(0, (7, 3))])
    blocks = {"open": (time.perf_counter() - began) * 1e3}
    for block in (0, 10, 10**6, 10**9):
        began = time.perf_counter()
        cut(merged, np.array([block * BLOCK]), BLOCK)
        blocks[f"block {block}"] = (time.perf_counter() - began) * 1e3
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "shuffle": shuffle,
        "documents": 2 * num_documents,
        "ms": {name: round(value, 2) for name, value in blocks.items()},
        "peak_mb": round(peak_kib / 1024),
        "before_mb": round(import_kib / 1024),
        "bytes_per_document": round((peak_kib - import_kib) * 1024 / (2 * num_documents), 1),
    }


PARTS = {
    "quality": lambda: quality(2_000_000),
    "windows 10^6": lambda: cost("windows", 500_000),
    "windows 10^9": lambda: cost("windows", 500_000_000),
    "corpus 10^6": lambda: cost("corpus", 500_000),
    "corpus 10^7": lambda: cost("corpus", 5_000_000),
}


def main() -> None:
    """Run every part in a process of its own, and print what it found."""
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--part", choices=PARTS)
    options.add_argument("--json", type=Path)
    chosen = options.parse_args()
    if chosen.part:
        print(json.dumps(PARTS[chosen.part]()))
        return
    found = {}
    for part in PARTS:
        command = [sys.executable, __file__, "--part", part]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found[part] = json.loads(done.stdout)
        print(part, json.dumps(found[part], indent=1))
    if chosen.json:
        chosen.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
