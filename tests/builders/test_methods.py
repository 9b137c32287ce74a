"""Every method in a whole build: the recipes of recipes/methods, at the tests' size."""

import json
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from corpora import stages
from small import shrunk

from cdgen import open_corpus
from cdgen.builders.plan import plan
from cdgen.builders.report import Report
from cdgen.builders.run import build, open_build
from cdgen.builders.trace import explain, replay
from cdgen.errors import UsageError
from cdgen.recipes.load import RecipeFile, load_recipe
from cdgen.recipes.schema import CheckpointAmateur
from cdgen.resources import resource
from cdgen.shards.verify import verify

Built = tuple[Path, Path, Report]

QUICKSTART = resource("recipes", "quickstart")
RECIPES = {path.stem: path for path in sorted((QUICKSTART.parent / "methods").glob("*.yaml"))}

STEPS = {200: 4, 400: 8, 800: 8}
"""The small run's checkpoints for the quickstart's."""


def fitted(name: str, built: Built, *, models: str | None = None) -> RecipeFile:
    """The recipe with the tests' text, expert and geometry, and few prefixes; or with other summands."""
    changes = shrunk(
        built[0].parent / "tales.txt",
        generate={"limit_prefixes": 4, "batches_per_shard": 1},
        mix={"synthetic": 0.02, "materialize": False},
    )
    recipe = load_recipe(RECIPES[name]).recipe
    if isinstance(recipe.amateur, CheckpointAmateur):
        changes.append(f"amateur.checkpoint={STEPS[recipe.amateur.checkpoint]}")
    if name == "no_repeat_ngram":  # short rows over many tokens repeat nothing longer
        changes.append("decode.no_repeat_ngram=2")
    if models is not None:
        return load_recipe(RECIPES[name], [*changes, f"decode.models={models}"])
    changes += [
        f"decode.models[{number}].checkpoint={STEPS[found.checkpoint]}"
        for number, found in enumerate(recipe.decode.models or ())
        if found.checkpoint is not None
    ]
    return load_recipe(RECIPES[name], changes)


@pytest.fixture(scope="session")
def corpora(
    built: Built, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Path, Report]]:
    """By method: folder and report, all from one cache."""
    home = tmp_path_factory.mktemp("methods")
    cache = built[1].parent / "cache"
    return {
        name: (home / name, build(fitted(name, built), home / name, cache=cache))
        for name in RECIPES
    }


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_shares_text_and_expert_with_the_quickstart(name: str, tmp_path: Path) -> None:
    """So a build after the quickstart trains nothing."""
    ours, quickstart = (
        open_build(load_recipe(path), tmp_path / "out", tmp_path / "cache").digests
        for path in (RECIPES[name], QUICKSTART)
    )

    for stage in ("tokenizer", "text", "training", "expert"):
        assert getattr(ours, stage) == getattr(quickstart, stage)
    assert ours.decode != quickstart.decode


@pytest.mark.parametrize("name", RECIPES)
def test_it_builds_replays_and_explains_itself(
    name: str, corpora: dict[str, tuple[Path, Report]]
) -> None:
    """Models come from the cache; a second decoding draws the same tokens; the records agree."""
    out, _ = corpora[name]

    assert "train expert" not in stages(out)
    assert list(verify(out).problems) == []
    assert replay(out, 12).differences == ()
    sample = max(open_corpus(out).samples("synthetic"), key=lambda some: some.meta.num_tokens)
    steps = explain(out, sample.key)
    assert np.mean([step.logp_expert for step in steps]) == pytest.approx(
        sample.meta.mean_logp_expert, abs=1e-3
    )
    amateur = [0.0 if step.logp_amateur is None else step.logp_amateur for step in steps]
    assert np.mean(amateur) == pytest.approx(sample.meta.mean_logp_amateur, abs=1e-3)


def test_every_method_decodes_other_text(corpora: dict[str, tuple[Path, Report]]) -> None:
    """And each has a decode digest of its own. The reference code's leak shows in one token of thousands."""
    texts = {
        name: tuple(sample.text for sample in open_corpus(out).samples("synthetic"))
        for name, (out, _) in corpora.items()
        if name != "reference_code"
    }

    assert len(set(texts.values())) == len(texts)
    decode = {open_corpus(out).manifest.digests["decode"] for out, _ in corpora.values()}
    assert len(decode) == len(corpora)


def test_no_row_of_its_corpus_repeats_an_n_gram(
    corpora: dict[str, tuple[Path, Report]], built: Built
) -> None:
    """Of prefix and completion; rows of the same recipe without the ban do."""

    def repeated(out: Path) -> int:
        """Bigrams that end in a drawn token and stand before it."""
        count = 0
        for sample in open_corpus(out).samples("synthetic"):
            row = list(pairwise(sample.ids.tolist()))
            drawn = range(max(sample.meta.prefix_tokens - 1, 0), len(row))
            count += sum(row[i] in row[:i] for i in drawn)
        return count

    assert repeated(corpora["no_repeat_ngram"][0]) == 0
    assert repeated(built[1]) > 0


def test_further_models_are_in_the_lock_and_in_the_plan(
    corpora: dict[str, tuple[Path, Report]], built: Built, tmp_path: Path
) -> None:
    """By step and content; each costs weights and a cache."""
    lock = json.loads((corpora["three_models"][0] / "recipe.lock.json").read_text())

    models = lock["models"]
    assert {role: found["step"] for role, found in models.items()} == {
        "expert": models["expert"]["step"],
        "amateur": 4,
        "further-1": 8,
    }
    assert len({found["sha256"] for found in models.values()}) >= 2
    cache = built[1].parent / "cache"
    three, one = (
        plan(fitted(name, built), tmp_path / "out", cache=cache).needs.decoding_memory_bytes
        for name in ("three_models", "sample")
    )
    assert three is not None and one is not None and three == 3 * one


def test_a_plan_of_three_models_is_timed(built: Built, tmp_path: Path) -> None:
    timed = plan(
        fitted("three_models", built), tmp_path / "out", cache=built[1].parent / "cache", timed=True
    ).needs

    assert timed.decoding_s is not None and timed.decoding_s > 0


def test_a_given_model_of_the_sum_is_known_by_its_content(
    corpora: dict[str, tuple[Path, Report]], built: Built, tmp_path: Path
) -> None:
    """The same weights from another folder: the same digest, and the same bytes; other weights: another digest."""
    cache = built[1].parent / "cache"
    kept = json.loads((corpora["three_models"][0] / "work/models.json").read_text())["further"][0]
    shutil.copytree(kept, tmp_path / "here")
    shutil.copytree(kept, tmp_path / "there")
    summands = (
        "[{model: expert, weight: 1.0}, {path: %s, weight: 0.5}, {model: amateur, weight: -0.5}]"
    )

    def file(folder: str) -> RecipeFile:
        return fitted("three_models", built, models=summands % json.dumps(str(tmp_path / folder)))

    def texts(out: Path) -> dict[str, str]:
        return {found.key: found.text for found in open_corpus(out).samples("synthetic")}

    build(file("here"), tmp_path / "out", cache=cache)

    assert texts(tmp_path / "out") == texts(corpora["three_models"][0])
    assert replay(tmp_path / "out", 12).differences == ()
    one, two = (open_build(file(name), tmp_path / "x", cache).digests for name in ("here", "there"))
    assert one == two
    (tmp_path / "there/config.json").write_text(
        (tmp_path / "there/config.json").read_text(encoding="utf-8") + "\n", encoding="utf-8"
    )
    other = open_build(file("there"), tmp_path / "x", cache).digests
    assert other.decode != one.decode and other.expert == one.expert


@pytest.mark.parametrize(
    ("summand", "message"),
    [
        (
            "path: nowhere",
            r"decode.models\[1\].path: no model in .*nowhere \(config.json is missing\)",
        ),
        (
            "checkpoint: 5",
            r"decode.models\[1\].checkpoint 5 is never written; the run keeps 4, 8, 12",
        ),
        ("model: expert", r"models names the expert twice; add its weights"),
        ("model: amateur, temperature: 2.0", r"temperature does not belong to model: amateur"),
        ("model: amateur, path: x", r"exactly one of model, checkpoint, path, hf is needed"),
    ],
)
def test_a_summand_that_is_not_there_is_named(
    summand: str, message: str, built: Built, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        open_build(
            fitted(
                "three_models",
                built,
                models=f"[{{model: expert, weight: 1.0}}, {{{summand}, weight: 1.0}}]",
            ),
            tmp_path / "out",
            tmp_path,
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["decode.models=null"], r"method weighted_sum needs models"),
        (["decode.lambda=0.5"], r"lambda belongs to method contrastive"),
        (
            ["decode.method=contrastive"],
            r"models belongs to method weighted_sum, found contrastive",
        ),
        (["amateur={kind: none}"], r"decode.models\[2\] is the amateur, and amateur.kind is none"),
    ],
)
def test_a_sum_that_does_not_fit_is_named(changes: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_recipe(RECIPES["three_models"], changes)
