"""`cdgen eval` from the command line to the files: every task, resuming, mistakes."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner

from cdgen.cli import app
from cdgen.corpus import open_corpus
from cdgen.decode.models import load
from cdgen.errors import BuildError, UsageError
from cdgen.evaluation import choices, run
from cdgen.evaluation.held_out import document_nats, read_held_out
from cdgen.evaluation.items import Item, Option
from cdgen.evaluation.reading import Word, word_sequences
from cdgen.evaluation.reference import log_probability
from cdgen.evaluation.results import read_evaluation
from cdgen.evaluation.scorer import Scorer
from cdgen.evaluation.scores import task_score
from cdgen.evaluation.tokens import TextEncoder

GOLDEN = Path(__file__).resolve().parents[2] / "shards/golden/format-1"
CHOICES = "blimp,blimp_supplement,ewok,entity_tracking,wug_adj,wordorder_faroese"


def cdgen(*arguments: object) -> Any:
    found = CliRunner().invoke(app, ["eval", *map(str, arguments)])
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        raise found.exception
    assert found.exit_code == 0, found.output
    return found


@pytest.fixture
def fresh(checkpoint: Path, tmp_path: Path) -> Path:
    """A run folder with two steps."""
    run_folder = tmp_path / "runs/mine"
    for step in ("step-000002", "step-000004"):
        shutil.copytree(checkpoint, run_folder / step)
    return run_folder


def test_every_item_has_the_reference_s_scores(
    checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    found = cdgen(
        checkpoint, "--tasks", CHOICES, "--data", data, "--out", tmp_path / "out", "--json"
    )
    tasks = json.loads(found.stdout)
    model = load(checkpoint, dtype=torch.float32, device=torch.device("cpu"))
    tokenizer = TextEncoder.load(checkpoint).tokenizer
    from cdgen.evaluation.places import EvalData
    from cdgen.evaluation.tasks import read_task

    table = pq.read_table(tmp_path / "out" / checkpoint.name / "items.parquet")
    for task in CHOICES.split(","):
        rows = [row for row in table.to_pylist() if row["task"] == task]
        items = read_task(task, EvalData(data), None).items
        right = []
        for item, row in zip(items, rows, strict=True):
            expected = [log_probability(model, tokenizer, option) for option in item.options]
            np.testing.assert_allclose(row["scores"], expected, atol=2e-4)
            right.append(float(np.argmax(expected) == 0))
            if task != "wug_adj":
                assert row["value"] == right[-1]
        assert tasks[task]["items"] == len(items)
    blimp = tasks["blimp"]
    assert blimp["score"] == pytest.approx(sum(blimp["parts"].values()) / 2)
    assert blimp["floor"]["chance"] == 0.5
    assert tasks["entity_tracking_equal_length"]["items"] == 4
    assert tasks["entity_tracking_nothing"]["items"] == 2


def test_results_follow_from_the_items(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    cdgen(checkpoint, "--tasks", CHOICES, "--data", data, "--out", tmp_path)
    folder = tmp_path / checkpoint.name
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    table = pq.read_table(folder / "items.parquet")
    assert results["format"] == 2 and results["model"]["name"] == checkpoint.name
    assert str(tmp_path) not in json.dumps(results)
    for task, found in results["tasks"].items():
        items = table.filter(np.array(table["task"]) == task)
        assert found["score"] == task_score(task, items)


def test_what_was_done_is_not_done_again(
    fresh: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cdgen(fresh, "--tasks", "blimp,ewok", "--data", data, "--steps", "4")
    assert not (fresh / "eval/step-000002").exists()
    results = fresh / "eval/step-000004/results.json"
    before = results.read_bytes()

    scored: list[str] = []
    score = choices.score_choices

    def watched(task: str, *rest: Any) -> Any:
        scored.append(task)
        return score(task, *rest)

    monkeypatch.setattr(run, "score_choices", watched)
    cdgen(fresh / "step-000004", "--tasks", "blimp,ewok", "--data", data)
    assert scored == [] and results.read_bytes() == before

    cdgen(fresh, "--tasks", "blimp,wug_adj", "--data", data, "--steps", "4")
    assert scored == ["wug_adj"]
    assert set(json.loads(results.read_text(encoding="utf-8"))["tasks"]) == {
        "blimp",
        "ewok",
        "wug_adj",
    }

    cdgen(fresh, "--tasks", "blimp", "--data", data, "--steps", "4", "--limit", "1")
    assert scored == ["wug_adj", "blimp"]  # fewer items are another result

    file = data / "ewok_filtered/places.jsonl"
    file.write_text(file.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    cdgen(fresh, "--tasks", "ewok", "--data", data, "--steps", "4")
    assert scored == ["wug_adj", "blimp", "ewok"]


def test_certain_probabilities_are_ties_as_in_the_study() -> None:
    """Softmax in float32: 1 - 1e-9 and 1 - 2e-9 are both 1; and what is not certain stays as it is."""
    item = Item(part="wug_adj", name="0", options=(Option("a"), Option("b")), inputs=(0.5,))
    sums = np.array([[-150.0, -171.0], [-150.0, -170.0], [-150.0, -151.0]])
    values = [choices._value("wug_adj", item, one) for one in sums]

    assert values[0] == values[1] == 1.0
    theirs = torch.from_numpy(sums).float().softmax(1)[:, 0]
    np.testing.assert_allclose(values, theirs, rtol=1e-6)


def test_wug_adj_of_an_earlier_format_is_scored_again(fresh: Path, data: Path) -> None:
    cdgen(fresh, "--tasks", "blimp,wug_adj", "--data", data, "--steps", "4")
    items = fresh / "eval/step-000004/items.parquet"
    whole = read_evaluation(items.parent)
    table = pq.read_table(items)
    about = table.schema.metadata[b"cdgen_evaluation"].replace(b'"format":2', b'"format":1')
    pq.write_table(table.replace_schema_metadata({b"cdgen_evaluation": about}), items)

    found = read_evaluation(items.parent)
    assert found is not None and list(found.tasks) == ["blimp"]
    assert found.items["task"].unique().to_pylist() == ["blimp"]
    cdgen(fresh, "--tasks", "wug_adj", "--data", data, "--steps", "4")
    assert read_evaluation(items.parent) == whole


def test_a_kill_between_the_files_loses_nothing(fresh: Path, data: Path) -> None:
    cdgen(fresh, "--tasks", "blimp", "--data", data, "--steps", "2")
    results = fresh / "eval/step-000002/results.json"
    whole = results.read_bytes()
    results.unlink()
    cdgen(fresh, "--tasks", "blimp", "--data", data, "--steps", "2")
    assert results.read_bytes() == whole


def test_other_weights_are_another_result(fresh: Path, data: Path) -> None:
    cdgen(fresh, "--tasks", "blimp,ewok", "--data", data)
    model = load(fresh / "step-000002", dtype=torch.float32, device=torch.device("cpu"))
    model.get_output_embeddings().weight.mul_(2.0)
    model.save_pretrained(fresh / "step-000002")
    cdgen(fresh, "--tasks", "blimp", "--data", data)
    first, second = (
        read_evaluation(fresh / "eval" / step) for step in ("step-000002", "step-000004")
    )
    assert first is not None and second is not None
    assert set(first.tasks) == {"blimp"} and set(second.tasks) == {"blimp", "ewok"}
    assert first.model["sha256"] != second.model["sha256"]


SENTENCE = "the old king went into his garden and saw a bird that sang all day long for him alone"
READING = "item,word,prev_item,prev_word,Subtlex_log10,length,context_length,prev_length,self_paced_reading_time"


def test_surprisal_is_of_tokens_one_by_one(checkpoint: Path) -> None:
    encoder = TextEncoder.load(checkpoint)
    model = load(checkpoint, dtype=torch.float32, device=torch.device("cpu"))
    tokenizer = encoder.tokenizer
    word = Word("Anna went to the", "kitchenette")
    total, text = 0.0, word.context
    for token in tokenizer(word.word, add_special_tokens=False)["input_ids"]:
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        total += float(model(input_ids=ids).logits[0, -1].log_softmax(-1)[token])
        text += tokenizer.decode(token)
    sequences = word_sequences(word, encoder)
    scorer = Scorer.of(model)
    assert len(sequences) > 1
    assert scorer.sums(scorer.plan(sequences), lambda _: None).sum() == pytest.approx(
        total, abs=1e-4
    )


def test_reading_from_the_command_line(checkpoint: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    words = SENTENCE.split()
    lines = [READING]
    for sentence in range(3):
        for i, word in enumerate(words):
            before = f"{' '.join(words[: i - 1])},{words[i - 1]}" if i > 1 else ","
            context = " ".join(words[:i])
            numbers = ",".join(f"{x:.3f}" for x in rng.normal([8.0, 5.0]))
            prev = "" if i < 2 else len(words[i - 1])
            lines.append(
                f"{context},{word},{before},{numbers},{i + sentence},{prev},{rng.normal(300, 20):.2f}"
            )
    (tmp_path / "reading").mkdir()
    (tmp_path / "reading/reading_data.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    found = json.loads(
        cdgen(
            checkpoint, "--tasks", "reading", "--data", tmp_path, "--out", tmp_path, "--json"
        ).stdout
    )
    assert found["reading"]["items"] == 3 * len(words)
    assert 0 <= found["reading"]["score"] < 1
    table = pq.read_table(tmp_path / checkpoint.name / "items.parquet")
    value = {row["item"]: row["value"] for row in table.to_pylist()}
    model = load(checkpoint, dtype=torch.float32, device=torch.device("cpu"))
    tokenizer = TextEncoder.load(checkpoint).tokenizer
    spelled = Option(f"{words[0]} {words[1]}{words[2]}", len(f"{words[0]} {words[1]}"))
    if len(tokenizer(words[2], add_special_tokens=False)["input_ids"]) == 1:
        assert -value["4"] == pytest.approx(log_probability(model, tokenizer, spelled), abs=1e-3)


def test_perplexity_is_training_s(
    checkpoint: Path, make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    from cdgen.shards.reader import MappedShard
    from cdgen.streaming.blocks import Blocks
    from cdgen.training.perplexity import HeldOut, perplexity

    corpus = open_corpus(GOLDEN)
    entries = corpus.shards("real", "eval")
    folder = tmp_path / "model"
    shutil.copytree(GOLDEN / "tokenizer", folder)
    size = len(TextEncoder.load(folder).tokenizer)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=size, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=64,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    cdgen(folder, "--tasks", "perplexity", "--corpus", GOLDEN, "--out", tmp_path)
    (done,) = json.loads((tmp_path / "model/results.json").read_text(encoding="utf-8"))[
        "tasks"
    ].values()

    shards = [MappedShard(corpus.files.shard(one), corpus.files.index(one)) for one in entries]
    num_bytes = sum(len(shard.text(row).encode()) for shard in shards for row in range(len(shard)))
    held_out = HeldOut(Blocks(shards, 64, 0, shuffle=False), num_bytes)
    model = load(folder, dtype=torch.float32, device=torch.device("cpu"))
    theirs = perplexity(model, held_out, context=64, autocast=None)
    assert done["score"] == pytest.approx(theirs.perplexity, rel=1e-5)
    assert done["bits_per_byte"] == pytest.approx(theirs.bits_per_byte, rel=1e-5)
    assert done["tokens"] == theirs.num_tokens

    other = read_held_out(corpus, checkpoint)  # in another tokenizer's ids
    nats = document_nats(
        load(checkpoint, dtype=torch.float32, device=torch.device("cpu")), other, lambda _: None
    )
    assert other.digest != read_held_out(corpus, folder).digest
    assert other.num_bytes.sum() == num_bytes and len(nats) == len(other.keys)
    assert math.isfinite(nats.sum())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["CKPT", "--tasks", "blimpp"], r"no task 'blimpp'; did you mean 'blimp'\?"),
        (
            ["nowhere", "--tasks", "blimp", "--data", "DATA"],
            "nowhere: no such folder; a model on the Hub is hf://OWNER/NAME",
        ),
        (["CKPT", "--tasks", "blimp"], "name its folder with --data DIR"),
        (["CKPT", "--tasks", "perplexity"], "name it with --corpus DIR"),
        (["DATA", "--tasks", "blimp", "--data", "DATA"], "neither a model .* nor a run"),
        (
            ["RUN", "--tasks", "blimp", "--data", "DATA", "--steps", "3"],
            "has no step 3; it has 2, 4",
        ),
        (["CKPT", "CKPT", "--tasks", "blimp", "--data", "DATA"], "is named twice"),
        (["ftp://x/y", "--tasks", "blimp", "--data", "DATA"], "must be hf://OWNER/NAME"),
    ],
)
def test_mistakes_are_one_line_before_any_work(
    arguments: list[str], said: str, checkpoint: Path, fresh: Path, data: Path
) -> None:
    places = {"CKPT": checkpoint, "DATA": data, "RUN": fresh}
    with pytest.raises(UsageError, match=said) as raised:
        cdgen(*(places.get(one, one) for one in arguments))
    assert "\n" not in str(raised.value)


def test_lm_eval_is_asked_for_by_name(checkpoint: Path) -> None:
    from importlib.util import find_spec

    if find_spec("lm_eval") is None:
        with pytest.raises(UsageError, match=r"pip install 'cdgen\[eval\]'"):
            cdgen(checkpoint, "--tasks", "lm_eval:arc_easy")
    else:
        with pytest.raises(UsageError, match="has no task 'arc_eazy'"):
            cdgen(checkpoint, "--tasks", "lm_eval:arc_eazy")


def test_a_pickle_is_refused(fresh: Path, data: Path) -> None:
    folder = fresh / "step-000002"
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UsageError, match="only pickled weights"):
        cdgen(folder, "--tasks", "blimp", "--data", data)


def test_results_of_something_else_are_not_overwritten(
    checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    place = tmp_path / "out" / checkpoint.name / "items.parquet"
    place.parent.mkdir(parents=True)
    place.write_bytes(b"PAR1 but not really")
    with pytest.raises(BuildError, match=r"items\.parquet: damaged"):
        cdgen(checkpoint, "--tasks", "blimp", "--data", data, "--out", tmp_path / "out")
