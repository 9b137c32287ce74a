"""How fast blocks come out of a corpus, beside every peer, in one run.

    pip install -r benchmarks/streaming-peers.txt                  # in an environment that has cdgen
    python benchmarks/streaming.py --work scratch                  # about half an hour
    python benchmarks/streaming.py --work scratch --quick          # 2,000 documents, one round, one row a peer
    python benchmarks/streaming.py --work scratch --python mosaicml=other/bin/python

200,000 documents of 300 to 500 tokens, real and synthetic 70 to 30, are written once as a cdgen corpus and converted to
each peer's own format; webdataset, Energon and datasets read our tars. Peers deliver batches of
64 documents as one int32 tensor (litdata's TokensLoader 16 blocks of 2,048); cdgen delivers 16 blocks of 2,048, mixed
exactly in tokens: `input_ids` and `labels` as int64, and, as the cheapest form, `input_ids` alone as int32 (ids_int32);
each through .loader and, without a loader, by .batch. The first read of a document is compared with its hash
(blocks_unchecked leaves that out). Every measurement is a fresh process, rounds are interleaved,
every file is read once before a round, medians are printed. A peer that cannot be imported is named and left out.
mosaicml-streaming 0.13 needs an older numpy: give it an environment of its own.

    floor     a mapped file of ids copied into int64 or int32 blocks: what memory allows

    shuffled  million tokens per second into the loop, after the first batch; no worker processes
    ordered   the same, not shuffled
    workers   the same, shuffled, with 2 worker processes
    first     seconds from the imports to the first batch; cdgen has opened the corpus here before (docs/decisions/0028)
    resume    seconds from the imports to the first batch after 90 % of a shuffled epoch
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).parent / "streaming_peers"
PEERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "floor": ("numpy", ("memcpy_int64", "memcpy_int32")),
    "cdgen": (
        "cdgen",
        ("blocks", "blocks_batch", "blocks_unchecked", "stream", "ids_int32", "ids_int32_batch"),
    ),
    "webdataset": ("webdataset", ("tars", "tars_raw")),
    "datasets": ("datasets", ("arrow", "parquet", "webdataset")),
    "litdata": ("litdata", ("litdata", "litdata_tokens", "litdata_tokens_int64")),
    "mosaicml": ("streaming", ("mds",)),
    "grain": ("grain", ("arrayrecord",)),
    "energon": ("megatron.energon", ("energon",)),
}
"""Name to (what it imports, its rows in the tables)."""
QUICK = ("floor", "cdgen", "webdataset", "datasets")
TASKS = ("shuffled", "ordered", "workers", "first", "resume")
CONVERT_SECONDS, MEASURE_SECONDS = 600, 90


def main() -> None:
    """Parse the options, measure, print tables and write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="scratch folder, 6 GB; kept")
    parser.add_argument(
        "--quick", action="store_true", help="2,000 documents, one round, one row a peer"
    )
    parser.add_argument("--rounds", type=int, default=3, help="of each measurement (3)")
    parser.add_argument("--peers", nargs="+", choices=PEERS, help="only these")
    parser.add_argument(
        "--tasks",
        nargs="+",
        choices=TASKS,
        help="only these",
    )
    parser.add_argument(
        "--python",
        action="append",
        default=[],
        metavar="PEER=PATH",
        help="another interpreter for a peer",
    )
    parser.add_argument("--under", default="", help="a command that each measurement is run under")
    parser.add_argument("--json", type=Path, help="where the numbers go; what is there is added to")
    options = parser.parse_args()
    options.tasks = options.tasks or (("shuffled", "first") if options.quick else TASKS)
    found = _run_all(options)
    _print(found)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _run_all(options: argparse.Namespace) -> dict[str, Any]:
    sys.path.insert(0, str(HERE))
    from make import make

    folder = make(options.work, "tiny" if options.quick else "speed")
    pythons = dict(item.split("=", 1) for item in options.python)
    wanted = options.peers or (QUICK if options.quick else tuple(PEERS))
    peers, missing = _importable(wanted, pythons)
    kept = json.loads(options.json.read_text()) if options.json and options.json.exists() else {}
    rows = defaultdict(
        lambda: defaultdict(list),
        {k: defaultdict(list, v) for k, v in kept.get("runs", {}).items()},
    )
    failed, delivers = kept.get("failed", {}), kept.get("delivers", {})
    rounds = 1 if options.quick else options.rounds
    for number in range(-1, rounds):  # the first converts and saves states
        _warm(folder)
        for peer in peers:
            for form in PEERS[peer][1][: 1 if options.quick else None]:
                for task, shuffle, workers in _tasks(options, peer, form, prepare=number < 0):
                    name = task + " shuffled" * shuffle + f" {workers} workers" * bool(workers)
                    if number < 0 and any(key.startswith(f"{name}: ") for key in rows[form]):
                        continue  # prepared by the run whose numbers are added to
                    command = [
                        *options.under.split(),
                        pythons.get(peer, sys.executable), str(HERE / "measure.py"),
                        task, peer, form, str(folder), *(["--shuffle"] if shuffle else []), "--workers", str(workers),
                        *(["--seconds", "0.2"] if options.quick else []),
                    ]  # fmt: skip
                    value, error = _one(
                        command, MEASURE_SECONDS if number >= 0 else CONVERT_SECONDS
                    )
                    print(f"{peer} {form} {name}: {value or error}", file=sys.stderr, flush=True)
                    if error:
                        failed[f"{form} {name}"] = error
                    delivers |= {form: value.pop("delivers")} if "delivers" in value else {}
                    for key, measured in value.items():
                        rows[form][f"{name}: {key}"].append(measured)
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
        "python": platform.python_version(),
        "missing": missing,
        "failed": failed,
        "delivers": delivers,
        "runs": rows,
    }


def _tasks(
    options: argparse.Namespace, peer: str, form: str, *, prepare: bool
) -> list[tuple[str, bool, int]]:
    if prepare:
        resumes = "resume" in options.tasks and peer != "floor"
        return [("convert", False, 0), *([("save", True, 0)] if resumes else [])]
    every = {
        "shuffled": ("speed", True, 0),
        "ordered": ("speed", False, 0),
        "workers": ("speed", True, 2),
        "first": ("first", True, 0),
        "resume": ("resume", True, 0),
    }
    hasnt = {"workers", "first", "resume"} if peer == "floor" else set()
    hasnt |= {"workers", "resume"} if form.endswith("_batch") else set()  # no loader
    return [every[task] for task in options.tasks if task not in hasnt]


def _warm(folder: Path) -> None:
    """Read every file once, so that no peer waits for the disk."""
    for path in filter(Path.is_file, folder.rglob("*")):
        with path.open("rb", buffering=0) as file:
            while file.read(1 << 24):
                pass


def _importable(
    wanted: tuple[str, ...], pythons: dict[str, str]
) -> tuple[list[str], dict[str, str]]:
    """(peers that can be imported, what stands in the way of the others)."""
    found, missing = [], {}
    for peer in wanted:
        command = [
            pythons.get(peer, sys.executable),
            "-W",
            "ignore",
            "-c",
            f"import {PEERS[peer][0]}",
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            found.append(peer)
        else:
            missing[peer] = done.stderr.strip().splitlines()[-1]
            print(f"{peer} is left out: {missing[peer]}", file=sys.stderr)
    return found, missing


def _one(command: list[str], seconds: int) -> tuple[dict[str, Any], str]:
    """(numbers, what went wrong) of a measurement."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=seconds,
            env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {}, f"killed after {seconds} s"
    if done.returncode or not done.stdout.strip():
        return {}, (done.stderr.strip().splitlines() or ["no message"])[-1][:200]
    value: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return value, ""


COLUMNS = {
    "in order": "speed: mtokens_per_s",
    "shuffled": "speed shuffled: mtokens_per_s",
    "shuffled, 2 w": "speed shuffled 2 workers: mtokens_per_s",
    "first, s": "first shuffled: first_s",
    "resume, s": "resume shuffled: resume_s",
    "CPU s/Gtok": "speed shuffled: cpu_s_per_gtoken",
    "own MB": "speed shuffled: own_mb",
    "B/token": "convert: bytes_per_token",
    "state, B": "save shuffled: state_bytes",
}


def _print(found: dict[str, Any]) -> None:
    print(f"{found['machine']}; Python {found['python']}, torch {version('torch')}")
    print("| |", " | ".join(COLUMNS), "| delivers |")
    print("|---" * (len(COLUMNS) + 2) + "|")
    for form, runs in found["runs"].items():
        cells = [_cell(runs.get(column)) for column in COLUMNS.values()]
        print(f"| {form} |", " | ".join(cells), f"| {found['delivers'].get(form, '')} |")
    shuffled = COLUMNS["shuffled"]
    speeds = {
        form: median(runs[shuffled]) for form, runs in found["runs"].items() if shuffled in runs
    }
    ours = {form: speeds[form] for form in PEERS["cdgen"][1] if form in speeds}
    others = {f: s for f, s in speeds.items() if f not in ours and f not in PEERS["floor"][1]}
    if ours and others:
        best = max(others, key=lambda form: others[form])
        for form, speed in ours.items():
            beside = f", {speed / others['tars']:.0f} x webdataset" if "tars" in others else ""
            print(
                f"{form}: {speed / others[best]:.2f} x the fastest peer ({best}){beside}, shuffled"
            )
    for peer, why in found["missing"].items():
        print(f"left out: {peer}: {why}")
    for what, why in found["failed"].items():
        print(f"failed: {what}: {why}")


def _cell(values: list[float] | None) -> str:
    return f"{median(values):.3g}" if values else ""


if __name__ == "__main__":
    main()
