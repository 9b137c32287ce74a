"""A tiny corpus with real, synthetic and mixed shards, as a build would leave it."""

import hashlib
import os
import sys
from pathlib import Path

import numpy as np

import cdgen
from cdgen.shards.layout import index_path, parse_name, shard_name, shard_path
from cdgen.shards.manifest import (
    Manifest,
    ManifestShard,
    Mix,
    SourceInfo,
    read_manifest,
    write_manifest,
)
from cdgen.shards.reader import MappedShard
from cdgen.shards.sample import (
    Meta,
    Sample,
    document_id,
    id_dtype,
    real_key,
    repeat_key,
    synthetic_key,
)
from cdgen.shards.writer import ShardInfo, ShardWriter

STAGES = ("text", "expert", "amateur", "decode", "mix")
DIGESTS = {stage: hashlib.sha256(stage.encode()).hexdigest() for stage in STAGES}
DTYPE = id_dtype(4096)


def document_of(number: int) -> str:
    return document_id(hashlib.sha256(str(number).encode()).hexdigest(), 0)


def real_sample(number: int, split: str = "train", text: str | None = None) -> Sample:
    text = f"Document {number}: ein Märchen – 昔々 🐺\n" if text is None else text
    ids = np.arange(number, number + 7 + number % 5).astype(DTYPE)
    document = document_of(number)
    meta = Meta(
        source="real",
        origin="tales",
        license="Apache-2.0",
        document=document,
        start=3,
        end=3 + len(text.encode()),
        split=split,
        num_tokens=len(ids),
    )
    return Sample(key=real_key(document, 0), text=text, ids=ids, meta=meta)


def synthetic_sample(number: int, completion: int = 0, part: int = 0) -> Sample:
    ids = np.arange(9 + completion + part).astype(DTYPE)
    document = document_of(number)
    meta = Meta(
        source="synthetic",
        origin="tales",
        license="Apache-2.0",
        document=document,
        start=0,
        end=12,
        split="train",
        num_tokens=len(ids),
        prefix_tokens=0 if part else 4,
        completion=completion,
        part=part,
        truncated=part == 1,
        bos_inserted=part == 1,
        expert=DIGESTS["expert"][:16],
        amateur=DIGESTS["amateur"][:16],
        decode=DIGESTS["decode"][:16],
        rng_key=f"{number * 1000 + completion:032x}",
        mean_logp_expert=-1.25 - completion / 3,
        mean_logp_amateur=-2.0,
        mean_head_size=17.0,
        head_of_one_share=1 / 3,
    )
    key = synthetic_key(document, 2, completion, part)
    return Sample(key=key, text=f"Once {number}, {completion}, {part}.", ids=ids, meta=meta)


def write_shard(folder: Path, kind: str, split: str, number: int, *samples: Sample) -> ShardInfo:
    digest = DIGESTS[{"real": "text", "synthetic": "decode", "mixed": "mix"}[kind]]
    name = shard_name(kind, split, digest, number)
    dtype = samples[0].ids.dtype if samples else DTYPE
    with ShardWriter(shard_path(folder, name), index_path(folder, name), dtype) as writer:
        for sample in samples:
            writer.add(sample)
    return writer.info


def _mixed(folder: Path, sources: list[ShardInfo], count: int) -> list[ShardInfo]:
    """Mixed shards of all source samples in turn, the first real one twice."""
    shards = [MappedShard(shard_path(folder, info.name)) for info in sources]
    rows = sorted((row, i) for i, shard in enumerate(shards) for row in range(len(shard)))
    infos = []
    for number in range(count):
        name = shard_name("mixed", "train", DIGESTS["mix"], number)
        with ShardWriter(shard_path(folder, name), index_path(folder, name), DTYPE) as writer:
            for row, i in rows[number::count]:
                writer.copy(shards[i].raw(row), shards[i].row(row))
            if number == count - 1:
                values = shards[0].row(0)
                writer.copy(shards[0].raw(0), values, key=repeat_key(values["key"], 2))
        infos.append(writer.info)
    for shard in shards:
        shard.close()
    return infos


def make_corpus(folder: Path, *, each: int = 2, documents: int = 6) -> Path:
    """A corpus of `each` shards of a kind, the real ones of so many documents."""
    real = [
        write_shard(
            folder,
            "real",
            "train",
            n,
            *map(real_sample, range(n * documents, (n + 1) * documents)),
        )
        for n in range(each)
    ]
    held_out = write_shard(folder, "real", "eval", 0, *(real_sample(n, "eval") for n in (90, 91)))
    synthetic = [
        write_shard(
            folder,
            "synthetic",
            "train",
            n,
            *(synthetic_sample(200 + n, completion) for completion in range(3)),
            synthetic_sample(200 + n, 2, 1),
        )
        for n in range(each)
    ]
    mixed = _mixed(folder, [*real, *synthetic], each)
    total = sum(info.num_tokens for info in mixed)
    made = sum(info.num_synthetic_tokens for info in mixed)
    manifest = Manifest(
        name="tiny",
        digests=DIGESTS,
        engine="1",
        shards=tuple(map(ManifestShard.of, [*real, held_out, *synthetic, *mixed])),
        mix=Mix(
            nominal=0.3,
            realised=made / total,
            unit="tokens",
            num_real_tokens=total - made,
            num_synthetic_tokens=made,
        ),
        sources=(SourceInfo(name="tales", license="Apache-2.0", num_documents=12, num_tokens=100),),
        dropped={"prefixes_too_short": 3},
        numeric_classes=({"device": "cpu"},),
    )
    write_manifest(folder, manifest)
    return folder


def program(code: str, *args: object) -> tuple[list[str], dict[str, str]]:
    """(command, environment) of a program that can import the cdgen under test."""
    env = os.environ | {"PYTHONPATH": str(Path(cdgen.__file__).parents[1])}
    return [sys.executable, "-c", code, *map(str, args)], env


def remake(folder: Path, name: str, *samples: Sample) -> None:
    """Write a shard again from other samples and adapt the manifest: only its content is wrong."""
    kind, split, _, number = parse_name(name)
    entry = ManifestShard.of(write_shard(folder, kind, split, number, *samples))
    old = read_manifest(folder)
    shards = tuple(entry if shard.name == name else shard for shard in old.shards)
    kept = {field: getattr(old, field) for field in ("name", "digests", "engine", "mix", "sources")}
    write_manifest(folder, Manifest(shards=shards, **kept))
