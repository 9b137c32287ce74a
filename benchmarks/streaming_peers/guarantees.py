"""What a peer keeps, and what it says of damage, tried; prints JSON. Each try is a process of its own.

    python guarantees.py PEER FORM WORK       # WORK holds the corpora that make.py writes: order, gap, tiny

order     order_same: the same documents in the same order with 0 and 2 workers
resume    resume_same: stop after 20 batches, load the state into a new loader: the rest is what would have come;
          never_seen, twice: documents lost or repeated
elastic   the same, from 0 workers to 2
world     two gloo processes stop after 10 batches each, one process loads the state of rank 0
share     token_share of synthetic tokens in the first 10,000 documents, 30 % asked; real 150 tokens, synthetic 400
flip, cut_at_sample, cut_inside, swap, missing   what reading a damaged corpus does (damage.py)
"""

import importlib
import json
import os
import pickle
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from damage import DAMAGE, tried
from data import SPECS, Part, converted, named

STOP, WORLD_STOP = 20, 10
ASKED = 0.3
SAMPLES = 10_000
LIMIT_SECONDS = 120


def main() -> None:
    """Try each guarantee in a process of its own, or the one that is named."""
    warnings.simplefilter("ignore")
    name, form, work = sys.argv[1:4]
    if len(sys.argv) == 4:
        found = {
            check: _apart([name, form, work, check])
            for check in ("convert", "order", "resume", "elastic", "world", "share", *DAMAGE)
        }
        print(json.dumps(found))
        return
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a peer prints is no finding
    try:
        value = _check(importlib.import_module(f"peer_{name}"), form, Path(work), sys.argv[4])
    except Exception as error:  # noqa: BLE001 - that it raises is the finding
        value = f"raises {type(error).__name__}: {error}".splitlines()[0][:160]
    out.write(json.dumps(value) + "\n")
    out.flush()
    os._exit(0)  # some peers leave threads behind


def _apart(arguments: list[str]) -> Any:
    command = [sys.executable, __file__, *arguments]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=LIMIT_SECONDS
        )
    except subprocess.TimeoutExpired:
        return f"hangs, killed after {LIMIT_SECONDS} s"
    if done.returncode:
        return f"dies with {done.returncode}: {done.stderr.strip().splitlines()[-1:]}"
    return json.loads(done.stdout.strip().splitlines()[-1])


def _check(peer: Any, form: str, work: Path, check: str) -> Any:
    part = Part(work / "order")
    halves = [Part(work / "gap", kind) for kind in ("real", "synthetic")]
    if check in DAMAGE:
        return tried(peer, form, work / "tiny", check)
    if check == "convert":
        return [str(converted(peer, each, form)) for each in (part, *halves)]
    if check == "share":
        return _share(peer, halves, form)
    if check == "rank":
        return _rank(peer, part, form, Path(sys.argv[5]))
    checks = {"order": _order, "resume": _resume, "elastic": _elastic, "world": _world}
    return checks[check](peer, part, form)


def _read(made: Any, batches: int | None = None) -> list[Any]:
    """What came, batch by batch: (number, tokens) of documents, or the ids of blocks."""
    came = []
    for batch in made:
        came.append(_flat(batch))
        if batches is not None and len(came) == batches:
            break
    return [item for items in came for item in items]


def _flat(batch: Any) -> list[Any]:
    rows = batch["input_ids"] if isinstance(batch, dict) else batch
    return [row.numpy().tobytes() for row in rows]


def _whole(peer: Any, part: Part, form: str, *, workers: int = 0) -> list[Any]:
    return _read(peer.loader(part, form, named, shuffle=True, workers=workers))


def _order(peer: Any, part: Part, form: str) -> dict[str, Any]:
    one, two = (_whole(peer, part, form, workers=w) for w in (0, 2))
    return {"order_same": one == two, "same_set": Counter(one) == Counter(two)}


def _resume(peer: Any, part: Part, form: str, *, workers: int = 0) -> Any:
    first = peer.loader(part, form, named, shuffle=True, workers=0)
    if not hasattr(first, "state_dict"):
        return "no state"
    came = _read(first, STOP)
    return _judged(peer, part, form, came, first.state_dict(), workers=workers)


def _elastic(peer: Any, part: Part, form: str) -> Any:
    return _resume(peer, part, form, workers=2)


def _judged(
    peer: Any, part: Part, form: str, came: list[Any], state: Any, *, workers: int = 0
) -> dict[str, Any]:
    """What a new loader with this state adds to what came, beside an uninterrupted epoch."""
    whole = _whole(peer, part, form)
    again = peer.loader(part, form, named, shuffle=True, workers=workers)
    again.load_state_dict(state)
    rest = _read(again)
    seen = Counter(came) + Counter(rest)
    return {
        "resume_same": came + rest == whole,
        "never_seen": sum((Counter(whole) - seen).values()),
        "twice": sum((seen - Counter(whole)).values()),
    }


def _world(peer: Any, part: Part, form: str) -> Any:
    name, work = sys.argv[1], sys.argv[3]
    port = 20_000 + os.getpid() % 20_000
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / str(rank) for rank in (0, 1)]
        ranks = [
            subprocess.Popen(
                [sys.executable, __file__, name, form, work, "rank", str(path)],
                env=os.environ | {
                    "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
                    "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
                },
                stdout=subprocess.PIPE,
                text=True,
            )
            for rank, path in enumerate(paths)
        ]  # fmt: skip
        said = [process.communicate(timeout=LIMIT_SECONDS / 2)[0].strip() for process in ranks]
        if not all(path.exists() for path in paths):
            return f"2 ranks: {said}"
        kept = [pickle.loads(path.read_bytes()) for path in paths]  # noqa: S301 - our own
    came = [item for items, _ in kept for item in items]
    found = _judged(peer, part, form, came, kept[0][1])
    return {key: found[key] for key in ("never_seen", "twice")}


def _rank(peer: Any, part: Part, form: str, path: Path) -> str:
    import torch.distributed as dist

    dist.init_process_group("gloo")
    made = peer.loader(part, form, named, shuffle=True, workers=0)
    if not hasattr(made, "state_dict"):
        return "no state"
    came = _read(made, WORLD_STOP)
    path.write_bytes(pickle.dumps((came, made.state_dict())))
    dist.barrier()
    return "done"


def _share(peer: Any, halves: list[Part], form: str) -> dict[str, Any]:
    synthetic = tokens = count = 0
    for batch in peer.mixed(halves, (1 - ASKED, ASKED), form, named):
        for number, num_tokens in np.asarray(batch)[: SAMPLES - count].tolist():
            count += 1
            tokens += num_tokens
            synthetic += num_tokens if number >= SPECS["gap"].num_real else 0
        if count >= SAMPLES:
            break
    return {"samples": count, "token_share": synthetic / tokens}


if __name__ == "__main__":
    main()
