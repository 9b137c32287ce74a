"""Write a benchmark's documents as a real cdgen corpus: shards, indexes and manifest by cdgen's own writers."""

import hashlib
import random
from pathlib import Path

import numpy as np
from data import SPECS, VOCABULARY, Documents, write_flat

from cdgen.shards.layout import index_path, shard_name, shard_path
from cdgen.shards.manifest import Manifest, ManifestShard, Mix, SourceInfo, write_manifest
from cdgen.shards.npy import id_dtype
from cdgen.shards.sample import Meta, Sample, document_id, real_key, synthetic_key
from cdgen.shards.writer import ShardInfo, ShardWriter

STAGES = ("text", "expert", "amateur", "decode", "mix")
ORIGIN, LICENSE = "benchmark", "CC0-1.0"
CHARACTERS_PER_TOKEN = 4.5


def make(folder: Path, name: str, *, stream: int = 0) -> Path:
    """Make the corpus `name` of SPECS under `folder`, if it is not there; returns its folder.

    Args:
        folder: holds one folder for each of them.
        name: in SPECS.
        stream: sets another corpus of the same sizes apart, in ids and in the names of shards.
    """
    out = folder / (f"{name}-{stream}" if stream else name)
    if (out / "cdgen/manifest.json").is_file():
        return out
    write_flat(out, SPECS[name], seed=stream)
    digests = {
        stage: hashlib.sha256(f"{name}{stream}{stage}".encode()).hexdigest() for stage in STAGES
    }
    text = _text()
    infos = [
        info
        for kind in ("real", "synthetic")
        for info in _shards(out, kind, SPECS[name].shard_documents, digests, text)
    ]
    tokens = {
        k: sum(i.num_tokens for i in infos if i.name.startswith(k)) for k in ("real", "synthetic")
    }
    count = sum(i.num_samples for i in infos if i.name.startswith("real"))
    write_manifest(
        out / "cdgen",
        Manifest(
            name=name,
            digests=digests,
            engine="1",
            shards=tuple(map(ManifestShard.of, infos)),
            mix=Mix(
                nominal=0.3,
                realised=tokens["synthetic"] / sum(tokens.values()),
                unit="tokens",
                num_real_tokens=tokens["real"],
                num_synthetic_tokens=tokens["synthetic"],
            ),
            sources=(
                SourceInfo(name=ORIGIN, license=LICENSE, num_documents=count, num_tokens=tokens["real"]),
            ),
        ),
    )  # fmt: skip
    return out


def _shards(
    out: Path, kind: str, per_shard: int, digests: dict[str, str], text: str
) -> list[ShardInfo]:
    documents, folder, infos = Documents(out, kind), out / "cdgen", []
    stage = digests["text" if kind == "real" else "decode"]
    for shard, first in enumerate(range(0, len(documents), per_shard)):
        name = shard_name(kind, "train", stage, shard)
        with ShardWriter(
            shard_path(folder, name), index_path(folder, name), id_dtype(VOCABULARY)
        ) as writer:
            for i in range(first, min(len(documents), first + per_shard)):
                ids = np.array(documents[i])
                writer.add(_sample(kind, documents.numbers[i], ids, digests, text))
        infos.append(writer.info)
    return infos


def _sample(kind: str, number: int, ids: np.ndarray, digests: dict[str, str], text: str) -> Sample:
    document = document_id(hashlib.sha256(f"{number}".encode()).hexdigest(), 0)
    own = f"{number}: " + _slice(text, number, int(len(ids) * CHARACTERS_PER_TOKEN))
    common = {
        "origin": ORIGIN, "license": LICENSE, "document": document, "start": 0, "split": "train",
        "num_tokens": len(ids),
    }  # fmt: skip
    if kind == "real":
        meta = Meta(source="real", end=len(own.encode()), **common)
        return Sample(key=real_key(document, 0), text=own, ids=ids, meta=meta)
    meta = Meta(
        source="synthetic", end=80, prefix_tokens=20, completion=0, truncated=True,
        expert=digests["expert"][:16], amateur=digests["amateur"][:16], decode=digests["decode"][:16],
        rng_key=f"{number:032x}", mean_logp_expert=-2.0 - number / 1e6, mean_logp_amateur=-3.25,
        mean_head_size=17.5, head_of_one_share=0.25, **common,
    )  # fmt: skip
    return Sample(key=synthetic_key(document, 0, 0, 0), text=own, ids=ids, meta=meta)


def _text() -> str:
    """A megabyte of made-up words."""
    draw = random.Random(0)
    words = [
        "".join(draw.choices("abcdefghiklmnoprstuvw", k=draw.randint(2, 9))) for _ in range(5000)
    ]
    return " ".join(draw.choices(words, k=160_000))


def _slice(text: str, number: int, length: int) -> str:
    start = number * 7919 % (len(text) - length)
    return text[start : start + length]
