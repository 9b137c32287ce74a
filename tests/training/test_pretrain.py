"""Training from scratch: the data in order, the checkpoints whole, and a resume that changes no bit."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from cdgen.recipes.schema import ModelTraining
from cdgen.shards.reader import MappedShard
from cdgen.shards.sample import Meta, Sample, real_key
from cdgen.shards.writer import ShardWriter
from cdgen.streaming.blocks import Blocks
from cdgen.training.optimizer import make_optimizer
from cdgen.training.perplexity import HeldOut, perplexity
from cdgen.training.pretrain import TrainingRun, Vocabulary, new_model, pretrain

VOCABULARY = Vocabulary(size=64, bos_id=0, eos_id=1)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[MappedShard]:
    """Two shards of documents whose next token is easy to learn."""
    folder = tmp_path_factory.mktemp("shards")
    random = np.random.default_rng(1)
    made = []
    for number in range(2):
        tar, index = folder / f"{number}.tar", folder / f"{number}.parquet"
        with ShardWriter(tar, index, np.dtype(np.uint16)) as writer:
            for document in range(20):
                writer.add(sample(number * 100 + document, int(random.integers(8, 60))))
        made.append(MappedShard(tar, index))
    return made


def sample(number: int, length: int) -> Sample:
    """A document that counts upwards from its number."""
    body = [2 + (number + i) % 62 for i in range(length)]
    ids = np.array([0, *body, 1], np.uint16)
    document = f"{number:024x}-0"
    meta = Meta(source="real", document=document, split="train", num_tokens=len(ids))
    return Sample(key=real_key(document, 0), text=" ".join(map(str, body)), ids=ids, meta=meta)


def spec(**changes: object) -> ModelTraining:
    fields = {
        "layers": 1, "hidden": 16, "heads": 2, "kv_heads": 1, "ffn": 32, "context": 16, "steps": 9,
        "batch_tokens": 64, "learning_rate": 1e-2, "warmup_steps": 2, "checkpoint_every": 3, "threads": 1,
    }  # fmt: skip
    return ModelTraining.model_validate({**fields, **changes})


def train(
    shards: list[MappedShard], folder: Path, training: ModelTraining, stop_at: int = 0
) -> TrainingRun:
    """Train; an InterruptedError after `stop_at` steps."""
    steps = 0

    def advance(amount: int = 1, *, note: str = "") -> None:
        nonlocal steps
        steps += amount
        if steps == stop_at:
            raise InterruptedError

    blocks = Blocks(shards, training.context, training.seed)
    return pretrain(
        training,
        VOCABULARY,
        train=blocks,
        held_out=HeldOut(Blocks(shards, training.context, 0, shuffle=False), 4000),
        work=folder / "work",
        out=folder / "out",
        tokenizer_files={"tokenizer.json": b"{}"},
        advance=advance,
    )


def test_a_run_learns_and_keeps_its_checkpoints(shards: list[MappedShard], tmp_path: Path) -> None:
    """Each is a folder that transformers loads; the best one has the lowest perplexity."""
    run = train(shards, tmp_path, spec(steps=60, checkpoint_every=25))

    assert [kept.step for kept in run.checkpoints] == [25, 50, 60]
    assert run.pick("best").perplexity < 20
    assert run.pick("best") == min(run.checkpoints, key=lambda kept: kept.perplexity)
    assert run.pick(25).step == 25
    assert {path.name for path in run.path(25).iterdir()} == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    }
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("stop_at", [2, 5, 7])
def test_a_resumed_run_has_the_same_weights(
    shards: list[MappedShard], tmp_path: Path, optimizer: str, stop_at: int
) -> None:
    """To the last bit, wherever it was interrupted."""
    training = spec(optimizer=optimizer)
    calm = train(shards, tmp_path / "calm", training)
    with pytest.raises(InterruptedError):
        train(shards, tmp_path / "broken", training, stop_at=stop_at)

    resumed = train(shards, tmp_path / "broken", training)

    assert resumed.checkpoints == calm.checkpoints


def test_a_half_written_checkpoint_is_not_resumed_from(
    shards: list[MappedShard], tmp_path: Path
) -> None:
    """Only one that has its record, which is written last of all, counts."""
    training = spec()
    calm = train(shards, tmp_path / "calm", training)
    with pytest.raises(InterruptedError):
        train(shards, tmp_path / "broken", training, stop_at=7)
    work = tmp_path / "broken/work"
    shutil.copytree(work / "checkpoint-6", work / "checkpoint-9")
    (work / "checkpoint-9/model.safetensors").write_bytes(b"half")

    assert train(shards, tmp_path / "broken", training).checkpoints == calm.checkpoints


def test_threads_and_seed_are_the_recipes(shards: list[MappedShard], tmp_path: Path) -> None:
    """Another seed is another model; the same one is the same to the bit."""
    first = train(shards, tmp_path / "a", spec(seed=1))
    second = train(shards, tmp_path / "b", spec(seed=1))
    third = train(shards, tmp_path / "c", spec(seed=2))

    assert first.checkpoints == second.checkpoints
    assert first.checkpoints[-1].sha256 != third.checkpoints[-1].sha256


def test_perplexity_counts_every_token_but_the_first_once(shards: list[MappedShard]) -> None:
    """Against one forward pass of the whole text, with a context that holds it all."""
    import math

    model = new_model(spec(context=2048, batch_tokens=2048), VOCABULARY).double()
    held_out = HeldOut(Blocks(shards, 16, 0, shuffle=False), 4000)
    total = held_out.blocks.num_tokens
    ids = torch.from_numpy(held_out.blocks.tokens(0, total))[None]
    with torch.no_grad():
        logp = model(ids[:, :-1]).logits.log_softmax(-1)
    nats = -float(logp[0, torch.arange(total - 1), ids[0, 1:]].sum())

    measured = perplexity(model, held_out, context=2047, autocast=None)

    assert measured.num_tokens == total - 1
    assert measured.perplexity == pytest.approx(math.exp(nats / (total - 1)), rel=1e-6)
    assert measured.bits_per_byte == pytest.approx(nats / math.log(2) / 4000, rel=1e-6)


def test_windows_overlap_by_one_token(shards: list[MappedShard]) -> None:
    """So that the first token of a window is predicted by the one before."""
    held_out = HeldOut(Blocks(shards, 16, 0, shuffle=False), 1)
    rows = [row for batch in held_out.windows(16) for row in batch]
    predicted = torch.cat([row[1:] for row in rows])

    total = held_out.blocks.num_tokens
    assert torch.equal(predicted, torch.from_numpy(held_out.blocks.tokens(1, total - 1)))


def test_shuffled_blocks_are_each_epochs_blocks_once(shards: list[MappedShard]) -> None:
    """Every whole block of an epoch, in another order each epoch."""
    blocks = Blocks(shards, 16, 7)
    count = blocks.num_tokens // 16
    epochs = [[blocks.shuffled(e * count + j).tobytes() for j in range(count)] for e in range(2)]
    plain = [
        [blocks.tokens(e * blocks.num_tokens + j * 16, 16).tobytes() for j in range(count)]
        for e in range(2)
    ]

    assert [sorted(epoch) for epoch in epochs] == [sorted(epoch) for epoch in plain]
    assert epochs[0] != plain[0] and sorted(epochs[0]) != sorted(epochs[1])


def test_blocks_are_addresses(shards: list[MappedShard]) -> None:
    """Block j is the same whenever it is asked for, across epoch ends too."""
    blocks = Blocks(shards, 16, 7)
    order = [5, 1000, 0, 5, 99, 1000]
    seen: dict[int, bytes] = {}
    for j in order:
        assert seen.setdefault(j, blocks[j].tobytes()) == blocks[j].tobytes()
    stream = blocks.tokens(0, 16 * 120)
    assert all(np.array_equal(blocks[j], stream[16 * j : 16 * j + 16]) for j in range(120))


def test_zero_init_begins_as_the_embeddings_alone() -> None:
    """Attention and feed-forward layers add nothing at first."""
    model = new_model(spec(zero_init=True), VOCABULARY)
    ids = torch.arange(8)[None]
    with torch.no_grad():
        full = model(ids).logits
        short = model.lm_head(model.model.norm(model.model.embed_tokens(ids)))

    assert torch.equal(full, short)


def test_muon_steps_matrices_and_adamw_the_rest() -> None:
    """Every parameter belongs to exactly one."""
    model = new_model(spec(), VOCABULARY)
    optimizer = make_optimizer(model, spec(optimizer="muon"))
    grouped = [p for group in optimizer.param_groups for p in group["params"]]

    assert len(grouped) == len(set(map(id, grouped))) == len(list(model.parameters()))
    assert all(p.ndim == 2 for p in optimizer.param_groups[0]["params"])
    assert len(optimizer.param_groups[0]["params"]) == 7


def test_weights_are_float32_safetensors(shards: list[MappedShard], tmp_path: Path) -> None:
    """Whatever the precision of the arithmetic."""
    run = train(shards, tmp_path, spec(precision="bfloat16"))

    weights = load_file(run.path(9) / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    assert json.loads((run.folder / "training.json").read_text())["version"] == 1
