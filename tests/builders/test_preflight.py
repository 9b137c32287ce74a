"""The look at expert and amateur before decoding: what it measures, and when it warns or stops."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small import SMALL_RECIPE

from cdgen.builders.engines import open_engine
from cdgen.builders.prefixes import read_prefixes
from cdgen.builders.preflight import (
    Measured,
    beginnings,
    findings,
    look_of,
    measure,
    read_measured,
    spread,
)
from cdgen.builders.report import Report
from cdgen.builders.run import build
from cdgen.decode.engine import Engine
from cdgen.decode.health import health
from cdgen.decode.reference import stepped, token_scores
from cdgen.decode.sampling import row_keys, uniforms
from cdgen.errors import BuildError
from cdgen.recipes.load import load_recipe
from cdgen.recipes.schema import Decode, Preflight, Recipe
from cdgen.shards.reader import MappedShard
from cdgen.text.tokenizer import Tokenizer

Built = tuple[Path, Path, Report]
GOOD = Measured(
    num_documents=4,
    num_positions=100,
    expert_nats=3.0,
    amateur_nats=3.4,
    kl_nats=0.3,
    moved=0.2,
    head_of_one_share=0.2,
    mean_head_size=9.0,
    num_completions=8,
    repetition=0.1,
    loop_share=0.1,
    clone_share=0.0,
)


def changed(built: Built, old: str, new: str) -> Path:
    """The built recipe with one change, beside it."""
    assert old in SMALL_RECIPE
    path = built[0].parent / "changed.yaml"
    path.write_text(SMALL_RECIPE.replace(old, new), encoding="utf-8")
    return path


def engine_of(recipe: Recipe, out: Path) -> Engine:
    """The built models under a recipe."""
    kept = json.loads((out / "work/models.json").read_text())
    tokenizer = Tokenizer.load(out / "tokenizer")
    return open_engine(
        recipe,
        expert=Path(kept["expert"]),
        amateur=Path(kept["amateur"]),
        vocab_size=tokenizer.vocab_size,
        eos_id=tokenizer.eos_id,
    )


def eval_shards(out: Path) -> list[MappedShard]:
    """The eval split."""
    paths = sorted((out / "data/real").glob("real-eval-*.tar"))
    return [MappedShard(path, out / "index" / f"{path.stem}.parquet") for path in paths]


@pytest.mark.parametrize(
    "amateur", ["{kind: checkpoint, checkpoint: 4}", "{kind: dropout, attention: 0.5}"]
)
@pytest.mark.parametrize("method", ["contrastive", "weighted_sum"])
def test_it_measures_what_the_formulas_say(built: Built, amateur: str, method: str) -> None:
    """Loss, KL, head and the share of draws moved, against the formulas in Python floats."""
    summands = ", models: [{model: expert, weight: 1.5}, {model: amateur, weight: -0.5}]"
    text = SMALL_RECIPE.replace("{kind: checkpoint, checkpoint: 4}", amateur)
    text = text.replace(
        "{method: contrastive, lambda: 1.0, alpha: 0.1}",
        f"{{method: {method}, alpha: 0.1, temperature: 0.8"
        f"{summands if method == 'weighted_sum' else ''}}}",
    )
    path = built[0].parent / "formulas.yaml"
    path.write_text(text, encoding="utf-8")
    engine = engine_of(load_recipe(path).recipe, built[1])
    ids_BT = beginnings(eval_shards(built[1]), 14)[:3]
    key_B = row_keys(np.stack([uniforms(row, 2) for row in range(3)]))

    seen = health(engine, ids_BT, key_B, prefix_tokens=8)

    expert_BTV, amateur_BTV = stepped(engine.models, ids_BT, key_B, prefix_tokens=8)
    slow = np.array(
        [
            position(
                expert_BTV[b, t].tolist(), amateur_BTV[b, t].tolist(), ids_BT[b, 8 + t], engine
            )
            for b in range(3)
            for t in range(6)
        ]
    ).mean(axis=0)
    assert seen.num_positions == 18
    assert dataclasses.astuple(seen)[1:] == pytest.approx(slow, rel=1e-4, abs=1e-6)
    assert seen.gap_nats == pytest.approx(slow[1] - slow[0], abs=1e-4)


def position(g: list[float], b: list[float], token: int, engine: Engine) -> list[float]:
    """Everything about one position, slowly: the order of Health's fields."""
    p, q = (softmax([x / engine.rule.temperature for x in logits]) for logits in (g, b))
    alone = dataclasses.replace(engine.rule, method="head_only")
    drawn, plain = (softmax(token_scores(g, b, rule)) for rule in (engine.rule, alone))
    size = sum(x > engine.rule.alpha * max(p) for x in p)
    return [
        -math.log(p[token]),
        -math.log(q[token]),
        sum(x * math.log(x / y) for x, y in zip(p, q, strict=True)),
        sum(abs(x - y) for x, y in zip(drawn, plain, strict=True)) / 2,
        float(size == 1),
        float(size),
    ]


def softmax(scores: list[float]) -> list[float]:
    """In Python floats."""
    mass = [math.exp(score - max(scores)) for score in scores]
    return [x / math.fsum(mass) for x in mass]


def test_the_same_engine_gives_the_same_numbers(built: Built) -> None:
    """Also for an amateur with randomness of its own."""
    file = load_recipe(
        changed(built, "{kind: checkpoint, checkpoint: 4}", "{kind: dropout, attention: 0.5}")
    )
    table = next((built[1] / "work").glob("prefixes-*.parquet"))
    prefixes = read_prefixes(table, file.recipe.generate).kept
    look = look_of(file.recipe, prefixes, eval_shards(built[1]))

    seen = [measure(engine_of(file.recipe, built[1]), file.recipe, look) for _ in range(2)]

    assert seen[0] == seen[1]
    assert seen[0].num_completions == 32 and seen[0].num_documents <= 32
    assert seen[0].clone_share == 0.0


def test_beginnings_are_documents_in_order(built: Built) -> None:
    """Each row begins at a document's first token; a short document is followed by the next one."""
    shards = eval_shards(built[1])
    whole = np.concatenate([shard.ids(row) for shard in shards for row in range(len(shard))])
    sizes = np.concatenate([shard.num_tokens for shard in shards])
    starts = spread(np.cumsum(sizes) - sizes, 32)
    endless = np.tile(whole, 3)

    rows = beginnings(shards, len(whole))

    assert np.array_equal(rows, [endless[start : start + len(whole)] for start in starts])


def test_a_healthy_pair_passes_and_is_kept(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The corpus has the same bytes with and without; a resume measures nothing again."""
    recipe = changed(built, "mix: {", "preflight: {min_gap_nats: 0.01, action: stop}\nmix: {")
    out, cache = tmp_path / "out", built[0].parent / "cache"

    report = build(recipe, out, cache=cache)

    assert report.preflight is not None and report.preflight_findings == ()
    assert report.preflight.gap_nats is not None and report.preflight.gap_nats > 0.01
    assert report.manifest_digest == built[2].manifest_digest
    for name in ("README.md", "recipe.lock.json"):
        assert (out / name).read_bytes() == (built[1] / name).read_bytes()

    (out / "manifest.json").unlink()
    next((out / "work/receipts").glob("synthetic-*.json")).unlink()
    monkeypatch.setattr("cdgen.builders.decoding.measure", None)
    assert build(recipe, out, cache=cache).preflight == report.preflight


def test_an_amateur_as_good_as_the_expert_is_found(built: Built, tmp_path: Path) -> None:
    """The amateur is the expert's own checkpoint: warned of, or stopped before anything is decoded."""
    text = SMALL_RECIPE.replace(
        "{kind: checkpoint, checkpoint: 4}", "{kind: checkpoint, checkpoint: 12}"
    )
    recipe = built[0].parent / "same.yaml"
    out, cache = tmp_path / "out", built[0].parent / "cache"
    recipe.write_text(text.replace("mix: {", "preflight: {action: stop}\nmix: {"), encoding="utf-8")

    with pytest.raises(BuildError, match=r"the contrast is dead.*preflight\.action=warn"):
        build(recipe, out, cache=cache)
    assert not list(out.glob("data/synthetic/*"))

    file = load_recipe(recipe, set=["preflight.action=warn"])
    report = build(file, out, cache=cache)
    assert report.preflight is not None and report.preflight.gap_nats == pytest.approx(
        0.0, abs=1e-9
    )
    assert report.preflight.kl_nats == pytest.approx(0.0, abs=1e-9)
    assert "contrast is dead" in report.preflight_findings[0]
    events = [json.loads(line) for line in (out / "work/events.jsonl").read_text().splitlines()]
    assert [len(one["findings"]) for one in events if one["event"] == "preflight"] == [1, 1]


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        ({}, None),
        ({"amateur_nats": 3.04}, "the contrast is dead"),
        ({"amateur_nats": 2.5}, "the contrast is dead"),
        ({"amateur_nats": None, "kl_nats": None}, None),
        ({"head_of_one_share": 0.95}, "95% of heads are one token"),
        ({"loop_share": 0.75}, "75% of completions loop"),
        ({"clone_share": 0.75}, "75% of completions are copies"),
    ],
)
def test_every_limit_has_its_finding(change: dict[str, Any], finding: str | None) -> None:
    """And a measure within its limit has none."""
    found = list(findings(dataclasses.replace(GOOD, **change), Preflight(), Decode()))

    assert [line[: len(finding or "")] for line in found] == ([finding] if finding else [])


@pytest.mark.parametrize(
    ("decode", "dead"),
    [
        ({"method": "contrastive"}, True),
        ({"method": "contrastive", "lambda": 0.0}, False),
        ({"method": "head_only"}, False),
        ({"method": "sample"}, False),
        ({"method": "weighted_sum", "models": [{"model": "amateur", "weight": -0.5}]}, True),
        ({"method": "weighted_sum", "models": [{"model": "amateur", "weight": 0.5}]}, False),
    ],
)
def test_a_good_amateur_is_a_fault_only_where_it_is_subtracted(
    decode: dict[str, object], dead: bool
) -> None:
    """Methods that do not look at it, or add it, take any."""
    same = dataclasses.replace(GOOD, amateur_nats=3.0)

    assert bool(list(findings(same, Preflight(), Decode.model_validate(decode)))) == dead


def test_without_eval_text_it_says_so_before_training(built: Built, tmp_path: Path) -> None:
    """One line, and what to do."""
    splits = "splits: {train: 0.6, eval: 0.0, prefix: 0.4, seed: 42}"
    text = SMALL_RECIPE.replace("splits: {train: 0.5, eval: 0.1, prefix: 0.4, seed: 42}", splits)
    recipe = built[0].parent / "no-eval.yaml"
    recipe.write_text(text.replace("mix: {", "preflight: {}\nmix: {"), encoding="utf-8")

    with pytest.raises(BuildError, match="preflight needs text in the eval split"):
        build(recipe, tmp_path / "out", cache=tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("models/*"))


@pytest.mark.parametrize("content", ["", "[]", "{", '{"format": 1, "decode": "x"}'])
def test_a_damaged_measure_is_made_again(tmp_path: Path, content: str) -> None:
    """It is not believed."""
    (tmp_path / "work").mkdir()
    (tmp_path / "work/preflight-xxxxxxxx.json").write_text(content)

    assert read_measured(tmp_path, "x" * 64) is None


def test_spread_takes_the_first_and_no_more_than_there_are() -> None:
    """Evenly, in order."""
    assert spread(range(10), 4) == [0, 2, 5, 7]
    assert spread(range(3), 32) == [0, 1, 2]


def test_a_broken_model_is_named(built: Built) -> None:
    """Numbers that are none never pass for health."""
    engine = engine_of(load_recipe(built[0]).recipe, built[1])
    ids_BT = beginnings(eval_shards(built[1]), 9)[:2]

    class Broken:
        """The expert, whose output is not a number."""

        def __getattr__(self, name: str) -> object:
            return getattr(engine.amateur, name)

        def prefill(self, state: object, prefix_PT: torch.Tensor) -> torch.Tensor:
            """NaN."""
            return torch.full((len(prefix_PT), engine.vocab_size), torch.nan)

    engine.expert = Broken()  # type: ignore[assignment]
    with pytest.raises(BuildError, match="not a number"):
        health(engine, ids_BT, np.zeros(2, np.int64), prefix_tokens=8)
