"""What the prefixes of a build take in its driver: processor seconds and memory, opened, and read job by job.

    python benchmarks/prefixes.py --rows 100000 1000000

The table is written in the text stage's groups, of chunks of 40 to 160 tokens. Each measurement is a process of its
own.
"""

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cdgen.text.prepare import PREFIX_ROWS, PREFIX_SCHEMA

STEPS = {
    "import": "",
    "open": "found = read_prefixes(table, generate).kept",
    "open and read": (
        "found = read_prefixes(table, generate).kept\n"
        "for first in range(0, len(found), 512): found[first : first + 512]"
    ),
}
PROGRAM = """\
import sys, time
from pathlib import Path
from types import SimpleNamespace
from cdgen.builders.prefixes import read_prefixes
table, generate = Path(sys.argv[1]), SimpleNamespace(prefix_tokens=20, limit_prefixes=None)
started = time.process_time()
{code}
seconds = time.process_time() - started
lines = Path('/proc/self/status').read_text().splitlines()
kB = {{line.split()[0]: line.split()[1] for line in lines if line.endswith(' kB')}}
print(seconds, int(kB['VmHWM:']) / 1000, int(kB['VmRSS:']) / 1000)
"""


def write(path: Path, count: int) -> None:
    """A table of `count` chunks."""
    rng = np.random.default_rng(0)
    with pq.ParquetWriter(path, PREFIX_SCHEMA, compression="zstd") as file:
        for first in range(0, count, PREFIX_ROWS):
            file.write_table(group(first, min(PREFIX_ROWS, count - first), rng))


def group(first: int, count: int, rng: np.random.Generator) -> pa.Table:
    """So many chunks, from that number on."""
    numbers, length_R = np.arange(first, first + count), rng.integers(40, 161, count)
    offsets = np.concatenate([[0], np.cumsum(length_R)]).astype(np.int32)
    ids = rng.zipf(1.3, offsets[-1]) % 32000
    steps = rng.integers(1, 9, offsets[-1])
    ends = np.concatenate([np.cumsum(steps[a:b]) for a, b in itertools.pairwise(offsets)])
    columns = {
        "document": [f"{number // 4:024x}-0" for number in numbers],
        "source": ["novels"] * count,
        "license": ["CC0-1.0"] * count,
        "chunk": (numbers % 4).astype(np.int32),
        "start": (numbers % 4) * 900,
        "end": (numbers % 4) * 900 + 880,
        "ids": pa.ListArray.from_arrays(offsets, pa.array(ids, pa.uint32())),
        "ends": pa.ListArray.from_arrays(offsets, pa.array(ends, pa.uint32())),
    }
    return pa.table(columns, schema=PREFIX_SCHEMA)


def measured(code: str, table: Path) -> dict[str, float]:
    """Processor seconds and memory of a fresh process that runs `code`."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(code=code), table],
        capture_output=True,
        text=True,
        check=True,
    )
    seconds, peak, after = map(float, done.stdout.split())
    return {"cpu_s": seconds, "peak_MB": peak, "after_MB": after}


def main() -> None:
    """Measure, and print one JSON object a line."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    for count in arguments.parse_args().rows:
        with tempfile.TemporaryDirectory() as folder:
            table, started = Path(folder) / "prefixes.parquet", time.process_time()
            write(table, count)
            wrote = {"cpu_s": time.process_time() - started, "bytes": table.stat().st_size}
            print(json.dumps({"rows": count, "step": "write", **wrote}), flush=True)
            for step, code in STEPS.items():
                print(
                    json.dumps({"rows": count, "step": step, **measured(code, table)}), flush=True
                )


if __name__ == "__main__":
    main()
