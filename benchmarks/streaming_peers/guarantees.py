"""What a peer keeps, tried in this process; prints JSON.

    python guarantees.py PEER FORM WORK       # WORK holds the corpora that make.py writes: order, gap

order_same          the same documents in the same order with 0 and 2 workers
resume_same         stop after 20 batches, load the state into a new loader: the rest is what would have come
resume_workers      the same, from 0 workers to 2
never_seen, twice   documents lost or repeated by the first of these
token_share         of synthetic tokens in the first 10,000 documents, 30 % asked for; real 150 tokens, synthetic 400
"""

import importlib
import json
import os
import sys
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

from data import SPECS, Part, named

STOP = 20
ASKED = 0.3
SAMPLES = 10_000


def main() -> None:
    """Try each guarantee; what raises is written down as such."""
    warnings.simplefilter("ignore")
    name, form, work = sys.argv[1:]
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    peer = importlib.import_module(f"peer_{name}")
    part = Part(Path(work) / "order")
    halves = [Part(Path(work) / "gap", kind) for kind in ("real", "synthetic")]
    for each in (part, *halves) if peer.CONVERTED else ():
        if not each.own(form).exists():
            peer.convert(each, form)
    found: dict[str, Any] = {}
    for what, check in (("order", _order), ("resume", _resume), ("elastic", _elastic)):
        try:
            found |= check(peer, part, form)
        except Exception as error:  # noqa: BLE001 - that it raises is the finding
            found[f"{what}_raises"] = f"{type(error).__name__}: {error}"[:160]
    try:
        found |= _share(peer, halves, form)
    except Exception as error:  # noqa: BLE001 - that it raises is the finding
        found["share_raises"] = f"{type(error).__name__}: {error}"[:160]
    out.write(json.dumps(found) + "\n")
    out.flush()
    os._exit(0)  # some peers leave threads behind


def _read(made: Any, batches: int | None = None) -> list[Any]:
    """What came, batch by batch: (number, tokens) of documents, or the ids of blocks."""
    came = []
    for batch in made:
        came.append(_flat(batch))
        if batches is not None and len(came) == batches:
            break
    return [item for items in came for item in items]


def _flat(batch: Any) -> list[Any]:
    if isinstance(batch, list):
        return [tuple(item) for item in batch]
    rows = batch["input_ids"] if isinstance(batch, dict) else batch
    return [row.numpy().tobytes() for row in rows]


def _order(peer: Any, part: Part, form: str) -> dict[str, Any]:
    one, two = (_read(peer.loader(part, form, named, shuffle=True, workers=w)) for w in (0, 2))
    return {"order_same": one == two, "same_set": Counter(one) == Counter(two)}


def _resume(peer: Any, part: Part, form: str, *, workers: int = 0) -> dict[str, Any]:
    whole = _read(peer.loader(part, form, named, shuffle=True, workers=0))
    first = peer.loader(part, form, named, shuffle=True, workers=0)
    if not hasattr(first, "state_dict"):
        return {"resume_same": "no state"}
    came = _read(first, STOP)
    state = first.state_dict()
    again = peer.loader(part, form, named, shuffle=True, workers=workers)
    again.load_state_dict(state)
    rest = _read(again)
    seen = Counter(came) + Counter(rest)
    if workers:
        return {"resume_workers": came + rest == whole}
    return {
        "resume_same": came + rest == whole,
        "never_seen": sum((Counter(whole) - seen).values()),
        "twice": sum((seen - Counter(whole)).values()),
    }


def _elastic(peer: Any, part: Part, form: str) -> dict[str, Any]:
    found = _resume(peer, part, form, workers=2)
    return {} if "resume_workers" not in found else found


def _share(peer: Any, halves: list[Part], form: str) -> dict[str, Any]:
    synthetic = tokens = count = 0
    for batch in peer.mixed(halves, (1 - ASKED, ASKED), form, named):
        for number, num_tokens in batch[: SAMPLES - count]:
            count += 1
            tokens += num_tokens
            synthetic += num_tokens if number >= SPECS["gap"].num_real else 0
        if count >= SAMPLES:
            break
    return {"samples": count, "token_share": synthetic / tokens}


if __name__ == "__main__":
    main()
