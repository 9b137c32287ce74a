"""Looking back at a corpus: the same rows again, and why each token was drawn."""

import dataclasses
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from small import SMALL_RECIPE

from cdgen import open_corpus
from cdgen.builders.report import Report
from cdgen.builders.run import build
from cdgen.builders.trace import explain, replay, traced
from cdgen.errors import BuildError, UsageError

Built = tuple[Path, Path, Report]


@pytest.mark.parametrize("num_rows", [1, 12, 10_000])
def test_a_replay_draws_the_same_tokens(built: Built, num_rows: int) -> None:
    """In one batch, however the rows were packed when the corpus was built."""
    again = replay(built[1], num_rows)

    assert again.num_rows >= min(num_rows, 24)
    assert again.num_samples > 0 and again.agreement == 1.0
    assert again.differences == ()


def test_other_weights_are_noticed(built: Built, tmp_path: Path) -> None:
    """The amateur put in the expert's place draws other text; the first token that differs is named."""
    out = tmp_path / "out"
    shutil.copytree(built[1], out)
    models = json.loads((out / "work/models.json").read_text())
    (out / "work/models.json").write_text(json.dumps({**models, "expert": models["amateur"]}))

    again = replay(out, 6)

    assert again.differences and again.agreement < 1.0
    assert all(odd.stored != odd.drawn for odd in again.differences)


def test_an_explanation_agrees_with_the_provenance(built: Built) -> None:
    """Its means over the drawn tokens are the ones that the build recorded, part by part."""
    some = list(open_corpus(built[1]).samples("synthetic"))
    later = [sample for sample in some if sample.meta.part > 0]
    for sample in [*some[:2], *later[:2]]:
        steps = explain(built[1], sample.key)
        inserted = int(sample.meta.bos_inserted)

        assert len(steps) == sample.meta.num_tokens - sample.meta.prefix_tokens - inserted
        assert np.mean([step.logp_expert for step in steps]) == pytest.approx(
            sample.meta.mean_logp_expert, abs=1e-3
        )
        assert np.mean([step.logp_amateur for step in steps]) == pytest.approx(
            sample.meta.mean_logp_amateur, abs=1e-3
        )
        assert np.mean([step.head_size for step in steps]) == pytest.approx(
            sample.meta.mean_head_size, abs=0.1
        )
        assert all(step.logp_expert <= 0 for step in steps)


def test_traced_rows_agree_with_the_provenance(built: Built) -> None:
    """All completions of two prefixes, each with the means of a sample of its own."""
    rows = traced(built[1], 12)
    firsts = [s.meta for s in open_corpus(built[1]).samples("synthetic") if s.meta.part == 0]
    matches = [
        meta.rng_key
        for steps in rows
        for meta in firsts
        if meta.num_tokens - meta.prefix_tokens == len(steps)
        and np.mean([s.logp_expert for s in steps])
        == pytest.approx(meta.mean_logp_expert, abs=1e-4)
        and np.mean([s.logp_amateur for s in steps])
        == pytest.approx(meta.mean_logp_amateur, abs=1e-4)
    ]

    assert len(rows) == 12
    assert len(matches) == len(set(matches)) == 12


def test_plain_sampling_from_the_expert_explains_itself(tmp_path: Path, small_text: str) -> None:
    """With method sample, what the expert alone draws is what was drawn."""
    (tmp_path / "tales.txt").write_text(small_text, encoding="utf-8")
    recipe = tmp_path / "small.yaml"
    plain = SMALL_RECIPE.replace("method: contrastive", "method: sample")
    recipe.write_text(plain, encoding="utf-8")
    build(recipe, tmp_path / "out", cache=tmp_path / "cache")
    sample = next(open_corpus(tmp_path / "out").samples("synthetic"))

    steps = explain(tmp_path / "out", sample.key)

    assert steps
    assert all(step.plain == step.token for step in steps)


def test_an_unknown_key_is_one_line(built: Built) -> None:
    with pytest.raises(UsageError, match="no synthetic sample has the key nobody"):
        explain(built[1], "nobody")


def test_lost_models_are_one_line_with_advice(built: Built, tmp_path: Path) -> None:
    """A corpus that was moved to another machine, or whose cache was cleared."""
    out = tmp_path / "out"
    shutil.copytree(built[1], out)
    (out / "work/models.json").write_text(json.dumps({"expert": "/nowhere", "amateur": None}))

    with pytest.raises(
        BuildError,
        match=r"the expert \(trained to step \d+, .*\) is not in .*; build its recipe.yaml here",
    ):
        replay(out, 1)


def test_a_copy_without_work_is_replayed_with_the_models_of_the_cache(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are known by their training digest, and by the hash of their weights."""
    out = tmp_path / "out"
    shutil.copytree(built[1], out, ignore=shutil.ignore_patterns("work"))
    monkeypatch.setenv("CDGEN_CACHE", str(built[1].parent / "cache"))
    assert replay(out, 4).differences == ()

    lock = json.loads((out / "recipe.lock.json").read_text())
    lock["models"]["amateur"]["sha256"] = "0" * 64
    (out / "recipe.lock.json").write_text(json.dumps(lock))
    with pytest.raises(
        BuildError, match=r"the amateur \(trained to step \d+, weights 000000000000…\)"
    ):
        replay(out, 4)


def test_measures_are_natural_logarithms(built: Built) -> None:
    """exp of them are probabilities; a head of one token has the expert's favourite alone."""
    sample = next(open_corpus(built[1]).samples("synthetic"))
    for step in explain(built[1], sample.key):
        assert 0 < math.exp(step.logp_expert) <= 1
        assert step.head_size >= 1
        assert dataclasses.asdict(step)["token"]
