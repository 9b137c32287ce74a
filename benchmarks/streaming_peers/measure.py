"""One measurement of one peer, in this process; prints JSON. Started by benchmarks/streaming.py in a fresh process."""

import argparse
import importlib
import json
import os
import pickle
import resource
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data import Part, converted, pack

RESUME_AT = 0.9
MAX_SECONDS = 4.0


def main() -> None:
    """Parse, measure, print."""
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", choices=["convert", "speed", "first", "save", "resume"])
    for name in ("peer", "form", "folder"):
        parser.add_argument(name)
    parser.add_argument("--shuffle", action="store_true")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=1.5, help="at least, in whole epochs")
    options = parser.parse_args()
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a peer prints is no number of ours
    begun = time.perf_counter()
    peer = importlib.import_module(f"peer_{options.peer}")
    import torch  # noqa: F401 - a trainer has it

    if options.peer == "cdgen":
        from cdgen import blocks, stream  # noqa: F401 - imported when first used
    imported = time.perf_counter() - begun
    part = Part(Path(options.folder))
    found = globals()[f"_{options.task}"](peer, part, options)
    out.write(json.dumps(found | {"import_s": imported}) + "\n")
    out.flush()


def _convert(peer: Any, part: Part, options: argparse.Namespace) -> dict[str, Any]:
    out = converted(peer, part, options.form.removesuffix("_int64"))
    own = [p for p in out.rglob("*") if p.is_file() and not p.is_symlink()]
    if options.peer == "floor":
        own = [part.folder / "ids.bin"]
    tars = options.peer == "cdgen" or options.form in ("tars", "tars_raw", "webdataset", "energon")
    index = (part.folder / "cdgen/index").iterdir() if options.peer == "cdgen" else []
    files = [*own, *(map(Path, part.tars) if tars else []), *index]
    return {"bytes_per_token": sum(p.stat().st_size for p in files) / len(part.documents.flat)}


def _speed(peer: Any, part: Part, options: argparse.Namespace) -> dict[str, Any]:
    """Tokens into the loop per second, from the first batch of each epoch on; whole epochs until `seconds` passed."""
    tokens, seconds, cpu = 0, 0.0, _cpu()
    while seconds < options.seconds:
        batches = _batches(peer, part, options)
        next(batches)
        begun = time.perf_counter()
        for batch in batches:
            tokens += _count(batch)
            if time.perf_counter() - begun > MAX_SECONDS:
                break
        seconds += time.perf_counter() - begun
        del batches
        if options.workers:
            break
    return {
        "delivers": _delivers(batch),
        "mtokens_per_s": tokens / seconds / 1e6,
        "cpu_s_per_gtoken": (_cpu() - cpu) / tokens * 1e9,
        **_memory(),
    }


def _first(peer: Any, part: Part, options: argparse.Namespace) -> dict[str, Any]:
    begun = time.perf_counter()
    next(_batches(peer, part, options))
    return {"first_s": time.perf_counter() - begun}


def _save(peer: Any, part: Part, options: argparse.Namespace) -> dict[str, Any]:
    """Iterate to nine tenths of the epoch and keep the loader's state, where it has one."""
    made = _loader(peer, part, options)
    if not hasattr(made, "state_dict"):
        return {"state_bytes": 0}
    for state in _states(made, part):
        _state_path(part, options).write_bytes(pickle.dumps(state))
    return {"state_bytes": _state_path(part, options).stat().st_size}


def _states(made: Any, part: Part) -> Iterator[Any]:
    wanted, seen = int(len(part.documents.flat) * RESUME_AT), 0
    for batch in made:
        seen += _count(batch)
        if seen >= wanted:
            yield made.state_dict()
            return


def _resume(peer: Any, part: Part, options: argparse.Namespace) -> dict[str, Any]:
    """From a fresh loader to the batch after nine tenths of the epoch: by its state, or by iterating."""
    path, wanted = _state_path(part, options), int(len(part.documents.flat) * RESUME_AT)
    state = pickle.loads(path.read_bytes()) if path.exists() else None  # noqa: S301 - written a moment ago
    begun = time.perf_counter()
    made = _loader(peer, part, options)
    if state is not None:
        made.load_state_dict(state)
        next(iter(made))
    else:
        seen = 0
        for batch in made:
            seen += _count(batch)
            if seen > wanted:
                break
    return {"resume_s": time.perf_counter() - begun, "by_state": state is not None}


def _loader(peer: Any, part: Part, options: argparse.Namespace) -> Any:
    return peer.loader(part, options.form, pack, shuffle=options.shuffle, workers=options.workers)


def _batches(peer: Any, part: Part, options: argparse.Namespace) -> Iterator[Any]:
    return iter(_loader(peer, part, options))


def _delivers(batch: Any) -> str:
    """In words: which tensors, of which type."""
    named = batch if isinstance(batch, dict) else {"ids": batch}
    return ", ".join(
        f"{name} {str(value.dtype).removeprefix('torch.')}"
        for name, value in named.items()
        if hasattr(value, "dtype")
    )


def _count(batch: Any) -> int:
    ids = batch["input_ids"] if isinstance(batch, dict) else batch
    return int(ids.numel())


def _state_path(part: Part, options: argparse.Namespace) -> Path:
    return part.folder / f"state-{options.form}-{options.shuffle}-{options.workers}.pickle"


def _cpu() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def _memory() -> dict[str, float]:
    """Own memory, and with the mapped pages of files, which the system takes back when it needs them."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    kb = {name: int(lines[name].split()[0]) for name in ("RssAnon", "VmRSS")}
    return {"own_mb": kb["RssAnon"] / 1e3, "rss_mb": kb["VmRSS"] / 1e3}


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)  # some peers leave threads behind
