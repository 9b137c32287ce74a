"""What the manifest of a corpus of many shards takes: bytes on disk, processor seconds, memory of who reads it.

    python benchmarks/manifest.py --shards 10000 100000

Each measurement is a process of its own, whose peak memory is taken; the corpus has a manifest and no shards.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from hashlib import sha256
from pathlib import Path

from cdgen.shards.layout import shard_name
from cdgen.shards.manifest import Manifest, ManifestShard, manifest_digest, write_manifest
from cdgen.storage import FileStamp, Receipt, write_receipt

DIGEST = "0123abcd" * 8
STEPS = {
    "import": "",
    "read": "from cdgen.shards.manifest import read_manifest; found = read_manifest(folder)",
    "open": "from cdgen.corpus import open_corpus; found = open_corpus(folder)",
    "receipts": "from cdgen.storage import read_receipts; found = read_receipts(folder / 'work/receipts')",
}


def shard(number: int) -> ManifestShard:
    """A shard of the default geometry: 4,096 rows of 400 tokens."""
    name = shard_name("synthetic", "train", DIGEST, number)
    stamp = FileStamp(
        name=name.removesuffix(".tar") + ".parquet",
        sha256=sha256(f"index {number}".encode()).hexdigest(),
        num_bytes=400_000 + number % 1000,
    )
    return ManifestShard(
        name=name,
        kind="synthetic",
        split="train",
        sha256=sha256(str(number).encode()).hexdigest(),
        num_bytes=24_000_000 + number % 7919,
        num_samples=4_096,
        num_tokens=1_720_320 - number % 4001,
        num_text_bytes=6_900_000 + number % 6007,
        num_synthetic_tokens=1_720_320 - number % 4001,
        index=stamp,
    )


def receipt(entry: ManifestShard) -> Receipt:
    """What a worker leaves of such a shard."""
    return Receipt(
        name=entry.name,
        digest=DIGEST,
        sha256=entry.sha256,
        num_bytes=entry.num_bytes,
        num_samples=entry.num_samples,
        num_tokens=entry.num_tokens,
        num_text_bytes=entry.num_text_bytes,
        index=entry.index,
        numeric_class={
            "device": "NVIDIA H200",
            "dtype": "bfloat16",
            "torch": "2.13.0",
            "threads": "2",
        },
        counts={
            "rows": entry.num_samples,
            "empty_parts": 0,
            "synthetic_tokens": entry.num_synthetic_tokens,
        },
    )


def write(folder: Path, count: int) -> dict[str, float]:
    """The manifest of `count` shards, written by this process."""
    started = time.process_time()
    manifest = Manifest(
        name="scale", digests={"decode": DIGEST, "text": "", "mix": ""}, engine="2",
        shards=tuple(map(shard, range(count))), digest="0",
    )  # fmt: skip
    made = time.process_time()
    object.__setattr__(manifest, "digest", manifest_digest(manifest.shards))
    digested = time.process_time()
    path = write_manifest(folder, manifest)
    return {
        "make_cpu_s": made - started,
        "digest_cpu_s": digested - made,
        "write_cpu_s": time.process_time() - digested,
        "bytes": path.stat().st_size,
    }


def measured(code: str, folder: Path) -> dict[str, float]:
    """Processor seconds and peak memory of a fresh process that runs `code`."""
    program = (
        "import sys, time; from pathlib import Path; import cdgen.corpus\n"
        "folder, started = Path(sys.argv[1]), time.process_time()\n"
        f"found = None; {code}\n"
        "lines = Path('/proc/self/status').read_text().splitlines()\n"
        "kB = {line.split()[0]: line.split()[1] for line in lines if line.endswith(' kB')}\n"
        "print(time.process_time() - started, int(kB['VmHWM:']) / 1000, int(kB['VmRSS:']) / 1000)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, folder], capture_output=True, text=True, check=True
    )
    seconds, peak, after = map(float, done.stdout.split())
    return {"cpu_s": seconds, "peak_MB": peak, "after_MB": after}


def main() -> None:
    """Measure, and print one JSON object a line."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--shards", type=int, nargs="+", default=[10_000, 100_000])
    arguments.add_argument(
        "--receipts", action="store_true", help="also write and read a receipt for each shard"
    )
    given = arguments.parse_args()
    for count in given.shards:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            print(
                json.dumps({"shards": count, "step": "write", **write(folder, count)}), flush=True
            )
            if given.receipts:
                started = time.process_time()
                for number in range(count):
                    write_receipt(folder / "work/receipts", receipt(shard(number)))
                print(
                    json.dumps(
                        {
                            "shards": count,
                            "step": "write receipts",
                            "s": time.process_time() - started,
                        }
                    )
                )
            for step, code in STEPS.items():
                if step != "receipts" or given.receipts:
                    print(
                        json.dumps({"shards": count, "step": step, **measured(code, folder)}),
                        flush=True,
                    )


if __name__ == "__main__":
    main()
