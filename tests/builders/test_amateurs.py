"""Every kind of amateur in a whole build: the recipes of recipes/amateurs, at the tests' size."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from corpora import hashes, stages
from small import SMALL_RECIPE, shrunk

from cdgen import open_corpus
from cdgen.builders.kept import list_cache
from cdgen.builders.plan import plan
from cdgen.builders.report import Report
from cdgen.builders.run import build, open_build
from cdgen.builders.trace import explain, replay
from cdgen.decode import ngram
from cdgen.errors import UsageError
from cdgen.recipes.load import RecipeFile, load_recipe
from cdgen.reports.summary import build_text
from cdgen.resources import resource
from cdgen.shards.verify import verify

Built = tuple[Path, Path, Report]

QUICKSTART = resource("recipes", "quickstart")
RECIPES = {path.stem: path for path in sorted((QUICKSTART.parent / "amateurs").glob("*.yaml"))}
KINDS = set(RECIPES)

SIZE = "layers: 1, hidden: 16, heads: 1, kv_heads: 1, ffn: 32, context: 64"
FITTED = {
    "checkpoint": ["amateur.checkpoint=4"],
    "model": [
        f"amateur.train={{{SIZE}, steps: 4, batch_tokens: 256, warmup_steps: 1, threads: 1}}"
    ],
    "early_exit": ["amateur.layer=1"],
}
"""What of an amateur depends on the size of the expert."""


def fitted(kind: str, built: Built, *more: str) -> RecipeFile:
    """The recipe with the tests' text, expert and geometry, and a few prefixes."""
    changes = shrunk(
        built[0].parent / "tales.txt",
        generate={"limit_prefixes": 8, "batches_per_shard": 1},
        mix={"synthetic": 0.05},
    )
    return load_recipe(RECIPES[kind], [*changes, *FITTED.get(kind, ()), *more])


@pytest.fixture(scope="session")
def corpora(
    built: Built, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Path, Report]]:
    """By kind: folder and report, all from one cache."""
    home = tmp_path_factory.mktemp("amateurs")
    cache = built[1].parent / "cache"
    return {
        kind: (home / kind, build(fitted(kind, built), home / kind, cache=cache))
        for kind in RECIPES
    }


def test_every_kind_has_a_recipe() -> None:
    """Of the schema's kinds, each one; and none of another name."""
    reference = json.loads((QUICKSTART.parent / "recipe.schema.json").read_text())
    known = {
        spec["properties"]["kind"]["const"]
        for name, spec in reference["$defs"].items()
        if name.endswith("Amateur")
    }

    assert known == KINDS


@pytest.mark.parametrize("kind", RECIPES)
def test_a_recipe_shares_everything_but_the_amateur_with_the_quickstart(
    kind: str, tmp_path: Path
) -> None:
    """So a build after the quickstart trains no expert."""
    ours, quickstart = (
        open_build(load_recipe(path), tmp_path / "out", tmp_path / "cache").digests
        for path in (RECIPES[kind], QUICKSTART)
    )

    for name in ("tokenizer", "text", "training", "expert"):
        assert getattr(ours, name) == getattr(quickstart, name)
    assert (ours.amateur == quickstart.amateur) == (kind == "checkpoint")


@pytest.mark.parametrize("kind", RECIPES)
def test_it_builds_replays_and_explains_itself(
    kind: str, corpora: dict[str, tuple[Path, Report]]
) -> None:
    """The expert comes from the cache; every sample names the amateur; a second decoding draws the same tokens."""
    out, report = corpora[kind]

    assert "train expert" not in stages(out)
    assert list(verify(out).problems) == []
    assert replay(out, 12).differences == ()
    assert f"amateur  {'step 4' if kind == 'checkpoint' else kind}" in _squeezed(build_text(report))
    digests = {sample.meta.amateur for sample in open_corpus(out).samples("synthetic")}
    assert digests == ({""} if kind == "none" else {report_digest(out)[:16]})
    sample = max(open_corpus(out).samples("synthetic"), key=lambda some: some.meta.num_tokens)
    steps = explain(out, sample.key)
    assert np.mean([step.logp_expert for step in steps]) == pytest.approx(
        sample.meta.mean_logp_expert, abs=1e-3
    )
    amateur = [0.0 if step.logp_amateur is None else step.logp_amateur for step in steps]
    assert np.mean(amateur) == pytest.approx(sample.meta.mean_logp_amateur, abs=1e-3)


def report_digest(out: Path) -> str:
    digest: str = json.loads((out / "recipe.lock.json").read_text())["digests"]["amateur"]
    return digest


def _squeezed(text: str) -> str:
    return "\n".join("  ".join(line.split(maxsplit=1)) for line in text.splitlines())


def test_every_kind_decodes_other_text(corpora: dict[str, tuple[Path, Report]]) -> None:
    """And every kind has a digest of its own."""
    texts = {
        kind: tuple(sample.text for sample in open_corpus(out).samples("synthetic"))
        for kind, (out, _) in corpora.items()
    }

    assert len(set(texts.values())) == len(texts)
    assert len({report_digest(out) for out, _ in corpora.values()}) == len(corpora)


class _Stops:
    """A listener that fails in the middle of decoding."""

    def __init__(self) -> None:
        self._name, self._calls = "", 0

    def say(self, line: str) -> None:
        pass

    def heard(self, event: object) -> None:
        pass

    def stage(self, name: str, *, total: int | None, unit: str) -> "_Stops":
        self._name = name
        return self

    def __enter__(self) -> "_Stops":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def __call__(self, amount: int = 1, *, note: str = "") -> None:
        self._calls += self._name == "decode"
        if self._calls == 70:  # of 2 x 48 steps and the count of what is done
            raise InterruptedError


@pytest.mark.parametrize("kind", ["dropout", "ngram", "model"])
def test_an_interrupted_build_gives_the_same_bytes(
    kind: str, built: Built, corpora: dict[str, tuple[Path, Report]], tmp_path: Path
) -> None:
    """The second shard is decoded by another process's engine; masks and counts are what they were."""
    cache = built[1].parent / "cache"
    file = fitted(kind, built)

    with pytest.raises(InterruptedError):
        build(file, tmp_path / "out", cache=cache, progress=_Stops())
    assert len(list((tmp_path / "out").glob("data/synthetic/*.tar"))) == 1
    build(file, tmp_path / "out", cache=cache)

    assert hashes(tmp_path / "out") == hashes(corpora[kind][0])


def test_counts_and_trained_amateurs_are_kept_by_digest(
    built: Built, corpora: dict[str, tuple[Path, Report]], tmp_path: Path
) -> None:
    """Another lambda counts and trains nothing; `cdgen cache` lists the counts; another order counts anew."""
    cache = built[1].parent / "cache"
    for kind in ("ngram", "model"):
        build(fitted(kind, built, "decode.lambda=0.5"), tmp_path / kind, cache=cache)
        assert not {"count n-grams", "train amateur"} & set(stages(tmp_path / kind))
    assert "count n-grams" in stages(corpora["ngram"][0])
    assert "train amateur" in stages(corpora["model"][0])
    before = {entry.path for entry in list_cache(cache).entries if entry.kind == "ngrams"}
    assert len(before) == 1

    build(fitted("ngram", built, "amateur.order=2"), tmp_path / "two", cache=cache)

    kept = [entry for entry in list_cache(cache).entries if entry.kind == "ngrams"]
    assert len(kept) == 2 and all(entry.numeric_class == "" for entry in kept)


def test_counts_are_of_the_train_split_alone(
    built: Built, corpora: dict[str, tuple[Path, Report]]
) -> None:
    """As many as the split has tokens, and the lock has the hash of the file."""
    out, report = corpora["ngram"]
    folder = json.loads((out / "work/models.json").read_text())["amateur"]

    levels = ngram.load(Path(folder))

    assert len(levels) == 3 and int(levels[-1].count_K.sum()) == report.num_real_tokens
    assert report.amateur is not None and report.amateur.perplexity is not None
    assert 1 < report.amateur.perplexity < 400, "a uniform choice among 400 entries"
    lock = json.loads((out / "recipe.lock.json").read_text())
    assert len(lock["models"]["amateur"]["sha256"]) == 64


def test_a_trained_amateur_is_in_the_lock(corpora: dict[str, tuple[Path, Report]]) -> None:
    """Its step, the hash of its weights and the class that trained it."""
    lock = json.loads((corpora["model"][0] / "recipe.lock.json").read_text())

    assert lock["models"]["amateur"]["step"] == 4
    assert lock["models"]["amateur"]["sha256"] != lock["models"]["expert"]["sha256"]
    assert lock["numeric_class"]["amateur_training"]["threads"] == "1"


@pytest.mark.parametrize("kind", RECIPES)
def test_a_plan_knows_what_the_amateur_needs(kind: str, built: Built, tmp_path: Path) -> None:
    """A second model costs weights and a cache; a listener logits alone; what is trained is counted twice."""
    cache = built[1].parent / "cache"

    counted = plan(fitted(kind, built), tmp_path / "out", cache=cache).needs
    alone = plan(fitted("none", built), tmp_path / "out", cache=cache).needs

    assert counted.decoding_memory_bytes is not None and alone.decoding_memory_bytes is not None
    more = counted.decoding_memory_bytes - alone.decoding_memory_bytes
    logits = 4 * 4 * 24 * 400
    if kind in ("early_exit", "temperature"):
        assert more == logits
    elif kind != "none":
        assert more > logits
    assert (counted.training_disk_bytes > alone.training_disk_bytes) == (kind == "model")


@pytest.mark.parametrize("kind", ["model", "ngram", "early_exit"])
def test_a_plan_is_timed_before_there_is_an_amateur(
    kind: str, built: Built, tmp_path: Path
) -> None:
    """Random weights and counts stand for it."""
    file = fitted(kind, built)

    timed = plan(file, tmp_path / "out", cache=built[1].parent / "cache", timed=True).needs

    assert timed.decoding_s is not None and timed.decoding_s > 0
    assert not list(tmp_path.rglob("*.safetensors"))


def test_the_digest_moves_with_what_an_amateur_is_made_of(built: Built, tmp_path: Path) -> None:
    """Its own fields always; the expert's checkpoint where it is the expert, weakened."""

    def amateur(kind: str, *more: str) -> str:
        return open_build(fitted(kind, built, *more), tmp_path / "out", tmp_path).digests.amateur

    for kind, field in {
        "dropout": "attention=0.5",
        "quantized": "bits=8",
        "truncated_context": "tokens=9",
        "temperature": "temperature=1.6",
        "ngram": "order=4",
        "model": "train.seed=7",
    }.items():
        assert amateur(kind) != amateur(kind, f"amateur.{field}")
    other = "expert.checkpoint=8"
    moved = {kind for kind in RECIPES if amateur(kind) != amateur(kind, other)}
    assert moved == {"dropout", "early_exit", "quantized", "truncated_context", "temperature"}
    assert amateur("model") == amateur("model", "expert.train.seed=44")
    assert dataclasses.asdict(
        open_build(fitted("model", built), tmp_path / "out", tmp_path).digests
    ).keys() == {"tokenizer", "text", "training", "expert", "amateur", "decode", "mix"}


def test_a_layer_beyond_a_given_expert_is_refused_before_any_work(
    built: Built, tmp_path: Path
) -> None:
    """The number of layers is in its config.json."""
    expert = json.loads((built[1] / "work/models.json").read_text())["expert"]
    begin, end = SMALL_RECIPE.index("tokenizer:"), SMALL_RECIPE.index("decode:")
    given = f"expert: {{path: {expert}}}\namateur: {{kind: early_exit, layer: 2}}\n"
    recipe = built[0].with_name("given.yaml")
    recipe.write_text(SMALL_RECIPE[:begin] + given + SMALL_RECIPE[end:], encoding="utf-8")

    with pytest.raises(UsageError, match=r"amateur.layer: must be below .* found 2 and 2"):
        open_build(load_recipe(recipe), tmp_path / "out", tmp_path)
