"""The reference study as recipes: every file is what the generator writes, is valid, and plans a corpus."""

import runpy
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from cdgen.builders.plan import Plan, plan
from cdgen.builders.run import build
from cdgen.builders.study import Study as Jobs
from cdgen.recipes.load import load_recipe
from cdgen.recipes.runs import load_run
from cdgen.recipes.schema import CheckpointAmateur, DropoutAmateur, ModelAmateur
from cdgen.recipes.sweeps import load_sweep

PAPER = Path(__file__).resolve().parents[2] / "recipes/paper"
NAMES = sorted(path.stem for path in PAPER.glob("*.yaml") if not path.stem.endswith(".sweep"))
LINES = ("The cat sat by the door and looked at the rain. ", "A man came home with bread. ")
SHAPE = "layers: 1, hidden: 16, heads: 1, kv_heads: 1, ffn: 32, context: 448, threads: 1"
TINY = (
    f"expert.train={{{SHAPE}, steps: 2, warmup_steps: 1, batch_tokens: 448, checkpoint_every: 1}}",
    "expert.checkpoint=2",
    "amateur.checkpoint=1",
    "generate={completions: 2, new_tokens: 16, rows_per_batch: 4, limit_prefixes: 4, threads: 1}",
    "mix={size: 400, repeat: allow, materialize: false}",
)


@dataclass(frozen=True)
class Study:
    """A copy of the folder with tiny texts, and what the later generations read."""

    home: Path

    def plan(self, name: str) -> Plan:
        file = load_recipe(self.home / "recipes/paper" / f"{name}.yaml")
        return plan(file, self.home / "out" / name, cache=self.home / "cache")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    home = tmp_path_factory.mktemp("study")
    folder = home / "recipes/paper"
    shutil.copytree(PAPER, folder, ignore=shutil.ignore_patterns("data", "__pycache__"))
    (folder / "data").mkdir()
    for name in ("gutenberg", "simple_wiki", "open_subtitles", "tinystories", "domain", "language"):
        separator = "\n<|endoftext|>\n" if name == "tinystories" else "\n\n"
        documents = [f"{name} {n}. {LINES[n % 2] * 12}" for n in range(60)]
        whole = separator.join(documents) + separator
        ends = {
            "tinystories": (".train.txt", ".valid.txt"),
            "domain": (".txt",),
            "language": (".txt",),
        }
        for end in ends.get(name, (".train", ".test")):
            (folder / "data" / f"{name}{end}").write_text(whole.replace(". ", f"{end} "), "utf-8")
    _earlier_generations(home)
    return Study(home)


def _earlier_generations(home: Path) -> None:
    """Corpora and runs that recipes name: their shapes are tiny, and everything else is real."""
    recipe = home / "recipes/paper/cd-early-500.yaml"
    corpora = ("cd-early-500", "no-contrast", "generation-2-accumulate", "generation-3-accumulate")
    for seed, name in enumerate(corpora):
        changed = load_recipe(recipe, set=[*TINY, f"generate.seed={seed}"])
        build(changed, home / "shards" / name, cache=home / "cache")
    (trained,) = (home / "cache/models").iterdir()
    for before in (
        "cd-early-500",
        *(f"generation-{n}-{way}" for n in (2, 3) for way in ("replace", "accumulate")),
    ):
        for step, made in ((2500, 2), (500, 1)):
            target = home / "runs" / f"{before}-43" / f"step-{step:06d}"
            shutil.copytree(trained / f"step-{made:06d}", target)


def test_the_files_are_what_the_generator_writes(tmp_path: Path) -> None:
    made = runpy.run_path(str(PAPER / "generate.py"))
    made["main"](tmp_path)
    (tmp_path / "left-over.yaml").write_text("version: 1\n")
    made["main"](tmp_path)

    files = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*.yaml")}
    kept = {path.relative_to(PAPER): path.read_bytes() for path in PAPER.rglob("*.yaml")}
    assert files == kept, "run: python recipes/paper/generate.py"


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_plans_a_corpus(study: Study, name: str) -> None:
    counted = study.plan(name)

    completions = 16 if name.endswith("-16") else 8
    assert counted.num_prefixes > 0
    assert counted.num_rows == completions * counted.num_prefixes
    assert counted.num_missing_prefixes == 0 and counted.num_needed_tokens > 0
    assert counted.training_tokens == (0 if name.startswith("generation") else 8000 * 262144)


@pytest.mark.parametrize(
    ("name", "waiting"),
    [
        ("study", {"build cd-early-500-and-no-contrast"}),
        ("mixing", set()),
        (
            "generations",
            {f"build generation-{n}-{way}" for n in (2, 3, 4) for way in ("replace", "accumulate")},
        ),
    ],
)
def test_every_sweep_lists_its_jobs(study: Study, name: str, waiting: set[str]) -> None:
    """Every run is trained and evaluated; what reads a result of the sweep waits for it."""
    file = load_sweep(study.home / "recipes/paper" / f"{name}.sweep.yaml")
    jobs = Jobs(file, study.home / "out" / f"sweep-{name}", cache=study.home / "cache").jobs()

    runs = [run for _, _, run in file.sweep.runs()]
    assert sorted(job.cell for job in jobs if job.kind == "train") == sorted(runs)
    assert {job.cell for job in jobs if job.kind == "eval"} == set(runs)
    assert {job.name for job in jobs if job.kind == "build" and not job.digest} == waiting


def test_every_row_of_the_study_is_here() -> None:
    """Section 2 of the study, and what its code holds besides."""
    truncations = [f"top-k-{k}" for k in (50, 100, 200)] + [f"top-p-{p}" for p in (90, 95, 97)]
    expected = {
        *("no-contrast", "no-contrast-vhead", *(f"no-contrast-{cut}" for cut in truncations)),
        *(f"cd-early-{step}" for step in (500, 1000, 1500, 2000)),
        *(f"cd-small-{ratio}" for ratio in (5, 10, 20, 50, 100)),
        *(f"cd-drop-{tenths}0" for tenths in range(1, 8)),
        *(f"cd-early-500-{cut}" for cut in truncations),
        *(
            f"cd-early-500-{way}"
            for way in ("tail", "no-repeat-4", "and-no-contrast", "completions-16")
        ),
        *(f"generation-{n}-{way}" for n in (2, 3, 4) for way in ("replace", "accumulate")),
    }
    runs = {path.stem for path in PAPER.glob("runs/*.yaml")}

    assert expected <= set(NAMES)
    assert (
        expected | {"baseline"} | {f"cd-early-500-mix-{tenths}0" for tenths in range(1, 10)} <= runs
    )


def test_conditions_differ_in_what_their_name_says() -> None:
    """The expert is one and the same; step, size, rate, k and p are those of the name."""
    experts = set()
    for name in NAMES:
        recipe = load_recipe(PAPER / f"{name}.yaml").recipe
        number = name.rpartition("-")[2]
        assert recipe.name == name
        if not name.startswith(("generation", "beyond")):
            assert recipe.expert.train is not None and recipe.expert.train.seed == 43
            experts.add((recipe.expert.train, recipe.expert.checkpoint))
        match recipe.amateur:
            case CheckpointAmateur(checkpoint=step) if "-early-500" not in name:
                assert str(step) == number or name.startswith(("beyond-d", "beyond-l", "beyond-e"))
            case CheckpointAmateur(checkpoint=step):
                assert step == 500
            case DropoutAmateur(attention=rate):
                assert f"{rate * 100:.0f}" == number
            case ModelAmateur(train=train) if train is not None:
                assert (train.seed, train.layers) == (
                    42,
                    {"5": 10, "10": 8, "20": 6, "50": 5, "100": 4}[number],
                )
        if "-top-" in name:
            cut = (
                recipe.decode.top_k
                if "-top-k-" in name
                else round((recipe.decode.top_p or 0) * 100)
            )
            assert str(cut) == number
    assert len(experts) == 1


def test_every_run_file_names_a_corpus_and_the_expert_s_training() -> None:
    """Seed 43; the shares of the mixing runs are those of their names."""
    for path in PAPER.glob("runs/*.yaml"):
        run = load_run(path).run
        assert (run.name, run.condition) == (f"{path.stem}-43", path.stem)
        assert (run.train.seed, run.train.steps, run.train.batch_tokens) == (43, 8000, 262144)
        assert (PAPER / f"{Path(run.corpus).name}.yaml").is_file()
        if "-mix-" in path.stem:
            assert run.mix.synthetic == int(path.stem[-2:]) / 100
