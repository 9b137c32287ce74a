"""`cdgen.blocks` and `cdgen.stream` on a corpus on disk: order, shares, resume, damage."""

import itertools
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.data_loader import IterableDatasetShard
from hypothesis import given, settings
from hypothesis import strategies as st
from stream_corpora import make_corpus
from torch.utils.data import DataLoader

import cdgen
from cdgen.corpus import open_corpus
from cdgen.errors import BuildError, UsageError
from cdgen.shards.layout import index_name, index_path, shard_path
from cdgen.shards.manifest import ManifestShard, write_manifest
from cdgen.shards.reader import MappedShard
from cdgen.streaming import gather
from cdgen.streaming.blocks import Blocks
from cdgen.streaming.dataset import FIELDS, BlockDataset
from cdgen.streaming.documents import DocumentStream
from cdgen.streaming.loader import StreamDataset

RNG = np.random.Generator(np.random.Philox(key=5))
SIZES = {
    "real": RNG.integers(20, 90, (20, 6)).tolist(),
    "synthetic": RNG.integers(60, 140, (9, 5)).tolist(),
}
BLOCK = 32


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real and synthetic text, and the mixed shards of seed 7."""
    return make_corpus(tmp_path_factory.mktemp("corpus"), SIZES, 0.3, mixed="too", seed=7)


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """One that a test may damage."""
    shutil.copytree(folder, tmp_path / "copy")
    return tmp_path / "copy"


def ids(blocks: BlockDataset, numbers: range | None = None) -> torch.Tensor:
    return blocks.batch(numbers or range(len(blocks)))["input_ids"]


def test_blocks_are_the_mixed_shards_at_the_seed_of_the_mix(folder: Path) -> None:
    """Token for token, the tail that fills no block left out."""
    mixed = [sample.ids for sample in open_corpus(folder).samples("mixed")]
    flat = np.concatenate(mixed).astype(np.int64)
    blocks = cdgen.blocks(folder, block=BLOCK, seed=7)

    assert blocks.stop == len(flat) and blocks.num_left_tokens == len(flat) % BLOCK
    assert np.array_equal(ids(blocks).flatten().numpy(), flat[: len(blocks) * BLOCK])


def test_documents_come_in_the_order_of_the_blocks(folder: Path) -> None:
    mixed = [sample.key for sample in open_corpus(folder).samples("mixed")]
    stream = cdgen.stream(folder, block=None, seed=7, verify=True)
    documents = list(stream)

    assert [document["key"] for document in documents] == mixed
    assert documents[0]["meta"]["source"] == documents[0]["source"]
    assert documents[0]["text"] == f"{documents[0]['source']} " + documents[0]["text"].split()[1]


def test_one_source_gives_the_blocks_that_the_expert_was_trained_on(folder: Path) -> None:
    """The old door and the new one, over two epochs; and in the order of the files."""
    shards = [MappedShard(path) for path in sorted((folder / "data/real").glob("*.tar"))]
    for shuffle in (True, False):
        old = Blocks(shards, BLOCK, 3, shuffle)
        new = cdgen.blocks(
            folder,
            block=BLOCK,
            seed=3,
            weights={"real": 1},
            epochs=2,
            shuffle=shuffle and "windows",
        )
        assert len(new) == 2 * old.num_tokens // BLOCK
        assert all(np.array_equal(old[j], ids(new, range(j, j + 1))[0]) for j in range(len(new)))


@pytest.mark.parametrize("shuffle", ["windows", "corpus", False])
def test_every_document_is_read_once_in_an_epoch_and_again_in_another_order(
    folder: Path, shuffle: str | bool
) -> None:
    stream = cdgen.stream(folder, block=None, weights={"real": 1}, epochs=2, shuffle=shuffle)
    keys = [document["key"] for document in stream]
    half = len(keys) // 2

    assert half == 120 and set(keys[:half]) == set(keys[half:]) and len(set(keys)) == half
    assert (keys[:half] == keys[half:]) == (shuffle is False)


def test_the_share_holds_within_the_bound_at_every_boundary(folder: Path) -> None:
    """At a share of its own, the small source repeated while the other runs on."""
    blocks = cdgen.blocks(folder, block=BLOCK, synthetic=0.6, repeat="allow", epochs=2)
    stream = cdgen.stream(folder, block=None, synthetic=0.6, repeat="allow", epochs=2)
    pairs = [(document["source"], len(document["input_ids"])) for document in stream]
    total = np.cumsum([tokens for _, tokens in pairs])

    assert blocks.passes()["real"] == 2.0 and blocks.passes()["synthetic"] > 2
    for bound in blocks.bounds():
        own = np.cumsum([tokens * (source == bound.source) for source, tokens in pairs])
        error = own - bound.share * total
        assert error.min() >= bound.low and error.max() <= bound.high
        assert bound.source in str(bound)


def test_a_source_that_runs_dry_is_refused_with_its_block(folder: Path) -> None:
    with pytest.raises(
        BuildError, match=r"synthetic text would run dry at block \d+: its [\d,]+ tok"
    ):
        cdgen.blocks(folder, block=BLOCK, synthetic=0.8)
    with pytest.raises(BuildError, match="may be read 2 times"):
        cdgen.blocks(folder, block=BLOCK, synthetic=0.9, repeat={"synthetic": 2})
    assert len(cdgen.blocks(folder, block=BLOCK, synthetic=0.8, repeat={"synthetic": 9}))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"synthetic": 1.5}, "between 0 and 1"),
        ({"synthetic": 0.3, "weights": {"real": 1}}, "not both"),
        ({"weights": {"rael": 1}}, "no source 'rael'"),
        ({"weights": {"real": 0}}, "above 0"),
        ({"synthetic": [(5, 0.3)]}, "begins at token 0"),
        ({"shuffle": "some"}, "shuffle must be"),
        ({"size": "twice"}, "size must be"),
        ({"epochs": 0}, "epochs must be"),
        ({"repeat": "maybe"}, "repeat must be"),
        ({"block": 0}, "block must be"),
        ({"fields": ("ids",)}, "fields must be"),
        ({"dtype": "int8"}, "dtype must be"),
        ({"on_damage": "pray"}, "on_damage must be"),
        ({"split": "test"}, "split must be"),
        ({"split": "eval"}, "no documents of the eval split"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    folder: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        cdgen.blocks(folder, **options)
    assert "\n" not in str(caught.value)


def test_documents_are_asked_for_at_the_other_door(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"stream\(…, block=None\) gives documents"):
        cdgen.blocks(folder, block=None)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="documents have no dtype, fields: leave that out"):
        cdgen.stream(folder, block=None, fields=("labels",), dtype="int32")


def test_damaged_documents_stop_or_come_empty(copy: Path) -> None:
    """All others as they are, in their places; every rank sees as many as before."""
    want = list(cdgen.stream(copy, block=None, synthetic=0.3))
    shard = first_shard(copy)
    flip_an_id(shard)
    with pytest.raises(BuildError, match=shard.name):
        list(cdgen.stream(copy, block=None, synthetic=0.3))
    stream = cdgen.stream(copy, block=None, synthetic=0.3, on_damage="skip")
    with pytest.warns(UserWarning, match=shard.name):
        found = list(stream)

    assert list(stream.damage) == [shard.name] and len(found) == len(want)
    lost = [n for n, document in enumerate(found) if not document["key"]]
    assert len(lost) == 1 and want[lost[0]]["source"] == "real"
    assert not len(found[lost[0]]["input_ids"])
    assert all(
        a["text"] == b["text"]
        for n, (a, b) in enumerate(zip(found, want, strict=True))
        if n not in lost
    )


def test_fields_mark_documents_positions_and_sources(folder: Path) -> None:
    """Each against what `at` says of the block."""
    blocks = cdgen.blocks(folder, block=BLOCK, fields=FIELDS)
    for j in (0, 5, len(blocks) - 1):
        item, spans = blocks[j], blocks.at(j)
        lengths = [span["stop"] - span["start"] for span in spans]
        names = [int(span["source"] == "synthetic") for span in spans]
        assert item["cu_seqlens"].tolist() == [0, *itertools.accumulate(lengths)]
        assert item["span_sources"].tolist() == names
        assert item["position_ids"].tolist() == [i for n in lengths for i in range(n)]
        assert item["document_ids"].tolist() == np.repeat(range(len(spans)), lengths).tolist()
        assert item["source_ids"].tolist() == np.repeat(names, lengths).tolist()
        assert torch.equal(item["labels"], item["input_ids"])
    batch = blocks.batch([3, 1])
    assert torch.equal(batch["input_ids"][1], blocks[1]["input_ids"])
    assert batch["cu_seqlens"][-1] == 2 * BLOCK
    assert cdgen.blocks(folder, dtype="int32")[0]["labels"].dtype == torch.int32


def in_turn(streams: list[Iterator[dict[str, torch.Tensor]]], batches: int) -> list[torch.Tensor]:
    """The blocks of a global batch in their order, from every rank."""
    found = []
    for _ in range(batches):
        parts = [next(stream)["input_ids"] for stream in streams]
        found += list(torch.stack(parts, 1).flatten(0, 1))
    return found


@given(
    st.lists(
        st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(0, 3)), min_size=1, max_size=5
    ),
    st.integers(0, 3),
    st.sampled_from([None, 0.5]),
)
@settings(max_examples=25, deadline=None)
def test_any_stops_and_any_numbers_of_ranks_give_one_sequence(
    folder: Path, runs: list[tuple[int, int, int]], seed: int, synthetic: float | None
) -> None:
    """(ranks, batch size, batches) after one another, each from the state of the last: nothing lost, nothing twice."""
    blocks = opened(folder, seed, synthetic)
    want = ids(blocks)
    found: list[torch.Tensor] = []
    state = blocks.state_at(0)
    for world_size, batch_size, batches in runs:
        streams = [
            StreamDataset(blocks, batch_size=batch_size, rank=rank, world_size=world_size)
            for rank in range(world_size)
        ]
        for stream in streams:
            stream.load_state_dict(json.loads(json.dumps(state)))
        found += in_turn(
            [iter(stream) for stream in streams], min(batches, streams[0].share.num_batches or 0)
        )
        states = [stream.state_dict() for stream in streams]
        assert all(other == states[0] for other in states)
        state = states[0]
    assert state["block"] == len(found)
    assert all(torch.equal(block, want[j]) for j, block in enumerate(found))


@cache
def opened(folder: Path, seed: int, synthetic: float | None) -> BlockDataset:
    return cdgen.blocks(folder, block=BLOCK, seed=seed, synthetic=synthetic, repeat="allow")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_data_loader_gives_the_global_order(folder: Path, workers: int) -> None:
    """Batches made by the stream, batches made by the loader, map-style, and the loader of one's own."""
    blocks = cdgen.blocks(folder, block=BLOCK)
    want = ids(blocks, range(40))
    whole = cdgen.stream(folder, block=BLOCK, batch_size=4)
    single = cdgen.stream(folder, block=BLOCK, batch_size=4, batched=False)
    loaders: list[Any] = [
        DataLoader(whole, batch_size=None, num_workers=workers),
        DataLoader(single, batch_size=4, num_workers=workers),
        DataLoader(blocks, batch_size=4, sampler=blocks.sampler(4), num_workers=workers),
        blocks.loader(4, num_workers=workers),
    ]
    for loader in loaders:
        batches = itertools.islice(loader, 10)
        assert torch.equal(torch.cat([batch["input_ids"] for batch in batches]), want)


def test_single_blocks_in_several_workers_are_refused(folder: Path) -> None:
    """Two workers and batches of 4 would begin with 0, 2, 4, 6."""
    loader = DataLoader(cdgen.stream(folder, block=BLOCK), batch_size=4, num_workers=2)
    with pytest.raises(UsageError, match="cannot tell 2 workers"):
        next(iter(loader))


def test_a_loader_counts_what_was_delivered_and_resumes_elsewhere(folder: Path) -> None:
    """Two workers ask ahead; the state does not. Resumed on two ranks without workers."""
    blocks = cdgen.blocks(folder, block=BLOCK)
    loader = blocks.loader(3, num_workers=2)
    list(itertools.islice(loader, 4))
    state = json.loads(json.dumps(loader.state_dict()))

    assert state["block"] == 12
    found = []
    for rank in range(2):
        other = blocks.loader(2, rank=rank, world_size=2)
        other.load_state_dict(state)
        assert len(other) == len(blocks) // 4  # of the whole run: Lightning adds what it has done
        dropped = (len(blocks) - 12) % 4
        assert other.num_dropped == dropped
        found.append(torch.cat([batch["input_ids"] for batch in other]))
        assert other.num_dropped == dropped  # still, and not that of a run from block 0
    union = torch.stack(found, 1).flatten(0, 1)
    assert torch.equal(union, ids(blocks)[12 : len(blocks) - dropped])


def test_workers_own_states_are_joined_to_one(folder: Path) -> None:
    """What each of two workers left, in whatever order, is one state of the run."""
    stream = cdgen.stream(folder, block=BLOCK, batch_size=2)
    states = [stream.blocks.state_at(block) | {"worker": [w, 2]} for w, block in ((0, 12), (1, 10))]

    assert stream.joined(states)["block"] == 10
    stream.load_state_dict(states[0])
    with pytest.raises(UsageError, match="left by worker 0 of 2"):
        next(iter(stream))


def test_the_last_global_batch_is_dropped_and_counted_the_same_on_every_rank(folder: Path) -> None:
    blocks = cdgen.blocks(folder, block=BLOCK)
    for world_size, batch_size in itertools.product((1, 2, 3), (1, 4, 7)):
        size = world_size * batch_size
        samplers = [
            blocks.sampler(batch_size, rank=rank, world_size=world_size)
            for rank in range(world_size)
        ]
        numbers = [list(sampler) for sampler in samplers]
        assert {len(own) for own in numbers} == {len(samplers[0])}
        assert {sampler.num_dropped for sampler in samplers} == {len(blocks) % size}
        assert sorted(itertools.chain(*numbers)) == list(range(len(blocks) // size * size))


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"seed": 1}, "its seed is 1, here it is 0"),
        ({"block": 64}, "its block is 64"),
        ({"synthetic": 0.25}, "its weights is"),
        ({"shuffle": "corpus"}, "its shuffle is 'corpus'"),
    ],
)
def test_a_state_of_another_stream_is_refused_by_name(
    folder: Path, other: dict[str, Any], named: str
) -> None:
    options: dict[str, Any] = {"block": BLOCK, "repeat": "allow"} | other
    state = cdgen.stream(folder, **options).state_dict()
    with pytest.raises(UsageError, match=named):
        cdgen.stream(folder, block=BLOCK).load_state_dict(state)
    with pytest.raises(UsageError, match="not a state"):
        cdgen.stream(folder, block=BLOCK).load_state_dict({"epoch": 3})


def test_an_endless_run_goes_on_and_has_no_length(folder: Path) -> None:
    blocks = cdgen.blocks(folder, block=BLOCK, epochs=None, repeat="allow")
    with pytest.raises(TypeError, match="endless"):
        len(blocks)
    once = cdgen.blocks(folder, block=BLOCK)
    assert torch.equal(ids(blocks, range(len(once))), ids(once))
    assert blocks[10**9]["input_ids"].shape == (BLOCK,)


def test_skipping_is_an_address(folder: Path) -> None:
    """What a trainer resumes on: item 0 is the block, and states count from the run's begin."""
    blocks = cdgen.blocks(folder, block=BLOCK)
    rest = blocks.skip(11)

    assert torch.equal(ids(rest), ids(blocks)[11:])
    assert rest.state_at(2)["block"] == 13 and rest.block_at(blocks.state_at(13)) == 2
    with pytest.raises(UsageError, match="before the first"):
        rest.block_at(blocks.state_at(3))


def test_a_corpus_of_mixed_shards_alone_is_separated_and_merged_again(tmp_path: Path) -> None:
    """By the index's column; a second use is no document of its own."""
    folder = make_corpus(tmp_path, SIZES, 0.6, mixed="only")
    keys = [sample.key for sample in open_corpus(folder).samples("mixed")]
    stream = cdgen.stream(folder, block=None, synthetic=0.25)
    found = [(document["source"], document["key"]) for document in stream]

    assert any(key.endswith("-p2") for key in keys)
    assert {key for source, key in found if source == "real"} == {
        k for k in keys if k[0] == "r" and "-p" not in k
    }
    assert not any(key.endswith("-p2") for _, key in found)
    assert {source for source, _ in found} == {"real", "synthetic"}


@pytest.mark.parametrize("kind", [StreamDataset, DocumentStream])
def test_what_accelerate_would_share_out_again_is_refused(folder: Path, kind: type) -> None:
    """Every second batch of rank 0's half would be a quarter of the corpus, without a word."""
    block = BLOCK if kind is StreamDataset else None
    ours = cdgen.stream(folder, block=block, rank=0, world_size=2)
    whole = cdgen.stream(folder, block=block, rank=0, world_size=1)
    assert isinstance(ours, kind)
    shared = [IterableDatasetShard(stream, 2, num_processes=2) for stream in (ours, whole)]

    with pytest.raises(UsageError, match="that of rank 0 of 2 already: do not prepare its loader"):
        next(iter(shared[0]))
    assert next(iter(shared[1]))


TRAINED = """
import resource, sys
from itertools import islice
import cdgen
options = {"shuffle": "corpus", "synthetic": 0.5, "repeat": "allow"}
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
blocks = cdgen.blocks(sys.argv[1], block=8, **options)
print(len(blocks.batch(range(len(blocks)))["labels"]))
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
blocks = None
documents = cdgen.stream(sys.argv[1], block=None, **options)
print(sum(len(document["input_ids"]) for document in islice(documents, 80)))
"""


def test_more_shards_than_the_process_may_open_files(tmp_path: Path) -> None:
    """A map holds a descriptor: blocks of 2,000 shards with 256 descriptors, documents of 80 with 64."""
    folder = copied_shards(make_corpus(tmp_path, {"real": [[9]], "synthetic": [[9]]}, 0.5), 1000)
    done = subprocess.run(
        [sys.executable, "-c", TRAINED, folder], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(2000 * 9 // 8), str(80 * 9)]


def copied_shards(folder: Path, copies: int) -> Path:
    """The corpus with each of its shards so many times: linked, and named in turn."""
    manifest = open_corpus(folder).manifest
    entries: list[ManifestShard] = []
    for entry in manifest.shards:
        for number in range(copies):
            name = entry.name.replace("00000", f"{number:05}")
            index = replace(
                entry.index, name=index_name(name), sha256=f"{len(entries):03x}" * 21 + "0"
            )
            entries.append(replace(entry, name=name, index=index))
            if number:
                shard_path(folder, name).hardlink_to(shard_path(folder, entry.name))
                index_path(folder, name).hardlink_to(index_path(folder, entry.name))
    made = replace(manifest, shards=tuple(entries), digest="", totals={}, mix=None)
    write_manifest(folder, made)
    return folder


def test_more_shards_than_may_be_open(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Maps are closed and opened again; the blocks are the same."""
    want = ids(cdgen.blocks(folder, block=BLOCK, shuffle="corpus"))
    monkeypatch.setattr(gather, "most_mapped", lambda: 3)
    blocks = cdgen.blocks(folder, block=BLOCK, shuffle="corpus")
    assert torch.equal(ids(blocks), want)


def first_shard(folder: Path, kind: str = "real") -> Path:
    return min((folder / f"data/{kind}").glob("*.tar"))


def flip_an_id(shard: Path) -> None:
    """One bit of the last document's first id."""
    with MappedShard(shard) as mapped:
        offset = int(mapped._ids_offset[len(mapped) - 1])
    data = bytearray(shard.read_bytes())
    data[offset] ^= 1
    shard.write_bytes(data)


@pytest.mark.parametrize("fault", ["missing", "cut", "flipped"])
def test_damage_stops_or_is_skipped_and_reported(copy: Path, fault: str) -> None:
    """By the name of the shard. Skipped: the same addresses, ids 0 and labels -100 just where the damage is."""
    want = ids(cdgen.blocks(copy, block=BLOCK))
    shard = first_shard(copy)
    if fault == "missing":
        shard.unlink()
    elif fault == "cut":
        shard.write_bytes(shard.read_bytes()[:-512])
    else:
        flip_an_id(shard)
    with pytest.raises(BuildError, match=shard.name):
        ids(cdgen.blocks(copy, block=BLOCK, verify=True))
    blocks = cdgen.blocks(copy, block=BLOCK, verify=True, on_damage="skip")
    with pytest.warns(UserWarning, match=shard.name):
        batch = blocks.batch(range(len(blocks)))

    lost = batch["labels"] == -100
    assert list(blocks.damage) == [shard.name]
    assert (
        torch.equal(batch["input_ids"][~lost], want[~lost]) and not batch["input_ids"][lost].any()
    )
    sizes = SIZES["real"][0]
    assert int(lost.sum()) == pytest.approx(
        sizes[-1] if fault == "flipped" else sum(sizes), abs=BLOCK
    )


def test_a_swapped_index_is_refused(copy: Path) -> None:
    """Its shard's offsets would be wrong."""
    first, second = sorted((copy / "index").glob("real-*.parquet"))[:2]
    shutil.copyfile(second, first)
    with pytest.raises(BuildError, match="does not fit"):
        ids(cdgen.blocks(copy, block=BLOCK))
