"""What filters and mix take in processes beside a build, and what a build loses to them meanwhile.

    python benchmarks/beside.py --shards 8 --processes 0 1 2

Every number of processes has a run of its own, in which the text is looked at while a loop stands for the decoding, and
then mixed. The mixed shards of all runs must have the same bytes. Limits of the machine: its processors.
"""

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from hashlib import sha256
from pathlib import Path
from resource import RUSAGE_SELF, getrusage

import numpy as np

from cdgen.builders.beside import Beside
from cdgen.builders.mixing import Ingredients, mix_stage
from cdgen.mixing.traits import EvaluationFiles, Wanted
from cdgen.processes import Processes
from cdgen.progress import Quiet
from cdgen.recipes.load import load_recipe
from cdgen.resources import resource
from cdgen.shards.layout import index_path, shard_name, shard_path
from cdgen.shards.reader import MappedShard
from cdgen.shards.receipts import receipt_of
from cdgen.shards.sample import Meta, Sample, real_key, synthetic_key
from cdgen.shards.writer import ShardInfo, ShardWriter
from cdgen.storage import FileStamp, Receipt

DOCUMENTS = 1024
"""Of a shard."""
WORDS = 320
"""Of a document, with 4 tokens for 3 of them."""


def main() -> None:
    """Make the shards, measure every number of processes, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--shards", type=int, default=8, help="real ones, and as many synthetic ones"
    )
    parser.add_argument("--processes", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        print(json.dumps(measured(options.run, options.shards, options.processes[0])))
        return
    with tempfile.TemporaryDirectory() as folder:
        made = make(Path(folder), options.shards)
        print(json.dumps(machine() | made))
        results = []
        for number in options.processes:
            command = [sys.executable, __file__, "--run", folder, "--shards", str(options.shards)]
            done = subprocess.run(
                [*command, "--processes", str(number)],
                check=True,
                stdout=subprocess.PIPE,
                text=True,
            )
            results.append(json.loads(done.stdout))
            print(json.dumps(results[-1] | {"bytes": results[-1]["bytes"][:12]}))
    assert len({result["bytes"] for result in results}) == 1, "the mixed shards differ"


def machine() -> dict[str, object]:
    """Where this runs."""
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
        "python": platform.python_version(),
    }


def make(folder: Path, shards: int) -> dict[str, int]:
    """Real and synthetic shards of random words, a list of items to search for."""
    rng = random.Random(0)  # noqa: S311 - text of a benchmark
    words = [f"{rng.randrange(16**5):05x}" for _ in range(20_000)]
    weights = [1 / rank for rank in range(1, len(words) + 1)]
    items = (" ".join(rng.choices(words, weights, k=13)) for _ in range(20_000))
    (folder / "items.txt").write_text("\n".join(items), encoding="utf-8")
    for kind in ("real", "synthetic"):
        for number in range(shards):
            paths = paths_of(folder, kind, number)
            with ShardWriter(*paths, np.dtype("<u2")) as writer:
                for row in range(number * DOCUMENTS, (number + 1) * DOCUMENTS):
                    writer.add(sample(kind, row, " ".join(rng.choices(words, weights, k=WORDS))))
    return {
        "num_tokens": 2 * shards * DOCUMENTS * (WORDS * 4 // 3),
        "num_documents": 2 * shards * DOCUMENTS,
    }


def paths_of(folder: Path, kind: str, number: int) -> tuple[Path, Path]:
    """Shard and index."""
    name = shard_name(kind, "train", "0123abcd" * 8, number)
    return shard_path(folder, name), index_path(folder, name)


def sample(kind: str, row: int, text: str) -> Sample:
    """A document of random ids: the filters take them as they are."""
    rng = np.random.default_rng([row, kind == "real"])
    ids = rng.integers(1, 16_000, WORDS * 4 // 3).astype(np.uint16)
    document = f"{row:024x}-0"
    drawn = kind == "synthetic"
    meta = Meta(
        source=kind,
        document=document,
        num_tokens=len(ids),
        completion=0 if drawn else -1,
        decode="0123abcd" * 2 if drawn else "",
    )
    key = synthetic_key(document, 0, 0, 0) if drawn else real_key(document, 0)
    return Sample(key=key, text=text, ids=ids, meta=meta)


def receipts(folder: Path, kind: str, shards: int) -> list[Receipt]:
    """Receipts of the shards that were made."""
    found = []
    for number in range(shards):
        path, index = paths_of(folder, kind, number)
        num_tokens = int(MappedShard(path, index).num_tokens.sum())
        info = ShardInfo(
            name=path.name, sha256="", num_bytes=path.stat().st_size, num_samples=DOCUMENTS,
            num_tokens=num_tokens, num_text_bytes=0, num_synthetic_tokens=0,
            index=FileStamp(name=index.name, sha256="", num_bytes=index.stat().st_size),
        )  # fmt: skip
        found.append(receipt_of(info, "0123abcd" * 8))
    return found


def measured(folder: Path, shards: int, number: int) -> dict[str, object]:
    """One run with so many processes."""
    changes = (f"shards.documents={DOCUMENTS}", "mix.synthetic=0.3", "filters={near_dedup: 0.8}")
    recipe = load_recipe(resource("recipes", "quickstart"), changes).recipe
    files = EvaluationFiles((("items", folder / "items.txt", None),), 13)
    real, drawn = (receipts(folder, kind, shards) for kind in ("real", "synthetic"))
    digest = sha256(str(number).encode()).hexdigest()  # shards of its own
    alone = spins(2.0)
    with Processes(number) as processes:
        beside = Beside(processes, Wanted(signatures=True, evaluation=files), folder)
        begun = time.monotonic()
        beside.begin(*real, *drawn)
        busy = spins(2.0) if number else alone
        for kind in ("real", "synthetic"):
            for place in range(shards):
                beside._begun(paths_of(folder, kind, place)[0].name).result()  # noqa: SLF001
        looked = time.monotonic()
        made = mix_stage(
            folder,
            recipe,
            digest,
            Ingredients(real=real, synthetic=drawn),
            beside=beside,
            progress=Quiet(),
        )
        mixed = time.monotonic()
    every = sha256("".join(receipt.sha256 for receipt in made.shards).encode())
    return {
        "processes": number,
        "looks_s": round(looked - begun, 2),
        "judge_and_mix_s": round(mixed - looked, 2),
        "loop_beside_looks": round(busy / alone, 3),
        "peak_mb": getrusage(RUSAGE_SELF).ru_maxrss // 1024,
        "num_mixed_shards": len(made.shards),
        "bytes": every.hexdigest(),
    }


def spins(seconds: float) -> int:
    """How often a loop of this process's own goes round."""
    end, count = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        count += 1
    return count


if __name__ == "__main__":
    main()
