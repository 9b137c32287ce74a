"""How fast `cdgen verify` is, and what it holds: MB/s, processor seconds and memory, by number of processes.

    python benchmarks/verify.py --shards 8 32 --workers 1 2 [--afar]

A corpus of synthetic shards (1,024 samples each, of 420 tokens by default) and mixed shards of the same samples, made
here. Each measurement is a process of its own; memory is that of the first process alone, at its peak. With --afar the
corpus is on a web server in this process, and nothing of it is in the cache.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np

from cdgen.shards.layout import index_path, shard_name, shard_path
from cdgen.shards.manifest import Manifest, ManifestShard, Mix, SourceInfo, write_manifest
from cdgen.shards.sample import Meta, Sample, synthetic_key
from cdgen.shards.writer import ShardInfo, ShardWriter

SAMPLES = 1024
DIGEST = "0123abcd" * 8
PROGRAM = """\
import resource, sys, time
from pathlib import Path
from cdgen.builders.checking import verify_anywhere
def peak_mb():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1000 for line in lines if line.startswith("VmHWM:"))
def main():
    begun, started = peak_mb(), time.monotonic()
    report = verify_anywhere(sys.argv[1], workers=int(sys.argv[2]))[1]
    assert report.ok, report.problems[:3]
    wall = time.monotonic() - started
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu = sum(each.ru_utime + each.ru_stime for each in used)
    print(report.counts["num_bytes"] / 1e6, wall, cpu, begun, peak_mb())
if __name__ == "__main__":
    main()
"""


def sample(number: int, words: np.ndarray, tokens: int) -> Sample:
    """A completion of a prefix that eight others continue too."""
    ids = np.random.default_rng(number).integers(0, len(words), tokens)
    document = f"{hashlib.sha256(str(number // 8).encode()).hexdigest()[:24]}-0"
    rng_key = hashlib.sha256(str(number).encode()).hexdigest()[:32]
    meta = Meta(
        source="synthetic", origin="novels", license="CC0-1.0", document=document, start=0, end=90, split="train",
        num_tokens=tokens,
        prefix_tokens=min(20, tokens), completion=number % 8, expert=DIGEST[:16], amateur=DIGEST[:16],
        decode=DIGEST[:16], rng_key=rng_key, truncated=True, mean_logp_expert=-2.5, mean_logp_amateur=-4.25,
        mean_head_size=9.5, head_of_one_share=0.25,
    )  # fmt: skip
    key = synthetic_key(document, 0, number % 8, 0)
    return Sample(key=key, text=" ".join(words[ids]), ids=ids.astype(np.uint16), meta=meta)


def shard(folder: Path, kind: str, number: int, words: np.ndarray, tokens: int) -> ShardInfo:
    """A shard of its own samples."""
    name = shard_name(kind, "train", DIGEST, number)
    with ShardWriter(shard_path(folder, name), index_path(folder, name), np.uint16) as writer:
        for each in range(number * SAMPLES, (number + 1) * SAMPLES):
            writer.add(sample(each, words, tokens))
    return writer.info


def corpus(folder: Path, count: int, tokens: int) -> None:
    """A finished corpus of so many synthetic shards, and as many mixed ones."""
    rng = np.random.default_rng(0)
    letters = np.array(list("etaoinshrdlu"))
    words = np.array(["".join(rng.choice(letters, rng.integers(2, 8))) for _ in range(8000)])
    infos = [
        shard(folder, kind, number, words, tokens)
        for kind in ("synthetic", "mixed")
        for number in range(count)
    ]
    manifest = Manifest(
        name="scale", engine="1", shards=tuple(map(ManifestShard.of, infos)),
        digests={"expert": DIGEST, "amateur": DIGEST, "decode": DIGEST, "mix": DIGEST},
        sources=(SourceInfo(name="novels", license="CC0-1.0", num_documents=0, num_tokens=0),),
        mix=Mix(
            nominal=1.0, realised=1.0, unit="tokens", num_real_tokens=0, num_synthetic_tokens=count * SAMPLES * tokens,
        ),
    )  # fmt: skip
    write_manifest(folder, manifest)


class Quiet(SimpleHTTPRequestHandler):
    """Serves files and says nothing."""

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - its base's name
        """Of a request."""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a web server that has the folder."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def main() -> None:
    """Measure, and print one JSON object a line."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--shards", type=int, nargs="+", default=[8, 32])
    arguments.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    arguments.add_argument("--tokens", type=int, default=420)
    arguments.add_argument("--afar", action="store_true", help="from a web server")
    given = arguments.parse_args()
    for count in given.shards:
        with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
            folder, started = Path(name), time.process_time()
            (program := folder / "program.py").write_text(PROGRAM)
            corpus(folder / "corpus", count, given.tokens)
            print(
                json.dumps(
                    {"shards": count, "step": "write", "cpu_s": time.process_time() - started}
                ),
                flush=True,
            )
            place = str(folder / "corpus")
            if given.afar:
                place = stack.enter_context(served(folder / "corpus"))
            for workers in given.workers:
                done = subprocess.run(
                    [sys.executable, program, place, str(workers)],
                    env={**os.environ, "CDGEN_CACHE": str(folder / f"cache-{workers}")},
                    capture_output=True, text=True, check=True,
                )  # fmt: skip
                size, wall, cpu, begun, peak = map(float, done.stdout.split())
                print(json.dumps({
                    "shards": 2 * count, "samples": 2 * count * SAMPLES, "workers": workers, "MB": size, "wall_s": wall,
                    "cpu_s": cpu, "MB_per_cpu_s": size / cpu, "MB_per_s": size / wall, "begun_MB": begun,
                    "peak_MB": peak,
                }), flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
