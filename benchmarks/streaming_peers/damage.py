"""A small corpus in a peer's own format, damaged, and what reading it does."""

import shutil
import tarfile
import tempfile
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from data import Part, converted

DAMAGE = ("flip", "cut_at_sample", "cut_inside", "swap", "missing")
DOCUMENT = 300
"""In the third shard or chunk of ours; its ids are the bytes that are flipped."""
INSIDE = 4000
SUFFIXES = (".tar", ".mds", ".bin", ".arrayrecord", ".parquet", ".arrow")


def tried(peer: Any, form: str, corpus: Path, case: str) -> str:
    """Copy a corpus, convert it, read it, damage it, read it again: "silent: …", or what is raised.

    Raises:
        Exception: what the peer raises for the damaged corpus.
    """
    with tempfile.TemporaryDirectory(dir=corpus.parent) as folder:
        part = Part(Path(folder))
        for name in ("ids.bin", "starts.npy", "spec.json"):
            shutil.copy(corpus / name, part.folder)
        shutil.copytree(corpus / "cdgen", part.folder / "cdgen")
        converted(peer, part, form)
        clean = _read(peer, part, form)
        if not _damage(part, form, case):
            return "no such boundary"
        seen = _read(peer, part, form)
    lost = sum((clean - seen).values())
    return f"silent: {lost} of {sum(clean.values())} changed or lost" if lost else "nothing changes"


def _read(peer: Any, part: Part, form: str) -> Counter[Any]:
    found: Counter[Any] = Counter()
    for batch in peer.loader(part, form, _checked, shuffle=False, workers=0):
        rows = batch["input_ids"].numpy() if isinstance(batch, dict) else None
        sums = batch.tolist() if rows is None else [zlib.crc32(row.tobytes()) for row in rows]
        found.update(sums)
    return found


def _checked(documents: list[Any]) -> torch.Tensor:
    """A batch as checksums of its documents."""
    return torch.tensor([zlib.crc32(np.array(ids).tobytes()) for ids in documents])


def _damage(part: Part, form: str, case: str) -> bool:
    own = part.own(form)
    files = sorted(p for p in own.rglob("*") if p.suffix in SUFFIXES and not p.is_symlink())
    files = files or [Path(tar) for tar in part.tars]
    path, other = files[len(files) // 3], files[len(files) // 2]
    if case == "flip":
        _flip(files, part.documents[DOCUMENT].tobytes())
    elif case == "cut_at_sample":
        if path.suffix != ".tar":
            return False
        with tarfile.open(path) as tar:
            offset = next(m.offset for m in tar.getmembers()[30:] if m.name.endswith(".txt"))
        _cut(path, offset)
    elif case == "cut_inside":
        _cut(path, path.stat().st_size // 2 + 100)
    elif case == "swap":
        kept = path.read_bytes()
        path.write_bytes(other.read_bytes())
        other.write_bytes(kept)
    else:
        path.unlink()
    return True


def _flip(files: list[Path], ids: bytes) -> None:
    """One bit of a document's last id; of one byte of the data where ids are not stored as such."""
    for path in files:
        data = bytearray(path.read_bytes())
        at = data.find(ids)
        if at >= 0:
            data[at + len(ids) - 2] ^= 1
            path.write_bytes(data)
            return
    data = bytearray(files[len(files) // 3].read_bytes())
    data[INSIDE] ^= 1
    files[len(files) // 3].write_bytes(data)


def _cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])
