"""`cdgen sweep`, for real: killed and run again, in pieces, with a job that fails. The models are tiny."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cdgen.builders.study import Study
from cdgen.builders.sweep import Swept, bring_results, sweep
from cdgen.cli.children import run_here
from cdgen.errors import UsageError
from cdgen.recipes.sweeps import load_sweep

SHAPE = (
    "layers: 1, hidden: 16, heads: 1, kv_heads: 1, ffn: 32, context: 32, steps: 4, batch_tokens: 64, "
    "warmup_steps: 1, checkpoint_every: 2, threads: 1"
)
RECIPE = f"""\
version: 1
name: tiny
text:
  sources: [{{name: tales, path: tales.txt, license: Apache-2.0}}]
  splits: {{train: 0.6, eval: 0.1, prefix: 0.3, seed: 42}}
tokenizer: {{train: {{algorithm: bpe, vocab_size: 300}}}}
expert: {{train: {{{SHAPE}}}, checkpoint: 4}}
amateur: {{kind: checkpoint, checkpoint: 2}}
generate: {{prefix_tokens: 8, completions: 2, new_tokens: 16, rows_per_batch: 8, threads: 1}}
mix: {{size: 400, repeat: allow, materialize: false}}
"""
RUN = f"version: 1\nname: base\ncorpus: shards/base\ntrain: {{{SHAPE}}}\n"
SWEEP = """\
version: 1
name: tiny
corpora:
  - {name: plain, recipe: r.yaml, set: {amateur: {kind: none}, decode: {method: sample}}}
  - {name: cd, recipe: r.yaml}
matrix:
  run: run.yaml
  seeds: [1]
  conditions:
    - {name: baseline, corpus: plain, set: {mix.synthetic: 0.0}}
    - {name: cd, corpus: cd}
evaluate: {tasks: [blimp], data: data, checkpoints: last}
"""
SECOND = """\
  - name: second
    recipe: r.yaml
    set: {expert: {}, amateur: {kind: model}}
    models: {expert.path: {run: cd-1, step: 4}, amateur.path: {run: cd-1, step: 2}}
    also: [{corpus: cd, share: 0.1}]
"""
PAIRS = [
    ("The cat sat by the door.", "The cat sit by door the."),
    ("A man came home.", "A man come home."),
]
RUNS = ("baseline", "cd-1")
LINES = ("The cat sat by the door and looked at the rain. ", "A man came home with bread. ")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with a recipe, a run file, a sweep, a text and an evaluation set."""
    documents = [f"tale {n}. {LINES[n % 2] * (4 + n % 3)}" for n in range(200)]
    files = {
        "tales.txt": "\n\n".join(documents),
        "r.yaml": RECIPE,
        "run.yaml": RUN,
        "s.yaml": SWEEP,
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    pairs = tmp_path / "data/blimp_filtered/pairs.jsonl"
    pairs.parent.mkdir(parents=True)
    rows = [
        {
            "sentence_good": good,
            "sentence_bad": bad,
            "UID": "pairs",
            "field": "syntax",
            "linguistics_term": "order",
        }
        for good, bad in PAIRS
    ]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return tmp_path


def opened(home: Path, out: str, cache: str = "cache") -> Study:
    return Study(load_sweep(home / "s.yaml"), home / out, cache=home / cache)


def here(home: Path, cache: str = "cache") -> "Here":
    return Here(home / cache)


class Here:
    """Runs a job's command in this process, which has torch loaded; counts what was run."""

    def __init__(self, cache: Path) -> None:
        self._cache, self.ran = cache, list[str]()

    def __call__(self, job: str, arguments: list[str], log: Path) -> str | None:
        self.ran.append(job)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("CDGEN_CACHE", str(self._cache))
            return run_here(arguments)


def states(swept: Swept) -> dict[str, str]:
    return {step.job.name: step.state for step in swept.steps}


def made(out: Path) -> dict[str, str]:
    """sha256 of everything that a sweep makes and that says nothing of when or where."""
    patterns = ("corpora/*/data/**/*.tar", "runs/*/step-*/model.safetensors", "runs/*/losses.csv")
    files = [file for pattern in patterns for file in out.glob(pattern)]
    return {
        str(file.relative_to(out)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files
    }


@contextmanager
def running(home: Path, out: str) -> Iterator[subprocess.Popen[bytes]]:
    """`cdgen sweep` in a process group of its own."""
    environment = {**os.environ, "CDGEN_CACHE": str(home / "cache")}
    command = [sys.executable, "-m", "cdgen", "sweep", "s.yaml", "--out", str(home / out)]
    command += ["--only", "baseline", "--only", "cd-1"]
    process = subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        cwd=home,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        assert process.stderr is not None
        process.stderr.close()


def wait_for(condition: Path, process: subprocess.Popen[bytes], folder: Path) -> None:
    """Until a file matches, or the process ends."""
    while not list(folder.glob(str(condition))):
        assert process.poll() is None, process.stderr and process.stderr.read().decode()
        time.sleep(0.01)


def alive_in(folder: Path) -> list[int]:
    """The processes whose command names the folder or that work in it; Linux only."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if (entry / "cwd").readlink() == folder:
                found.append(int(entry.name))
        except OSError:
            continue
    return found


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks for children in /proc")
def test_a_killed_sweep_leaves_nothing_running_and_goes_on(home: Path) -> None:
    """kill -9 of the sweep alone, while it builds and while it trains; then it is as if nothing had been."""
    for moment in ("corpora/plain/work/text-*.json", "runs/cd-1/work/lock"):
        with running(home, "killed") as process:
            wait_for(Path(moment), process, home / "killed")
            process.kill()
            process.wait()
            deadline = time.monotonic() + 60
            while alive_in(home) and time.monotonic() < deadline:
                time.sleep(0.01)
            assert alive_in(home) == []
    before = opened(home, "killed").steps(RUNS)
    assert any(step.state == "done" for step in before) and any(
        step.state != "done" for step in before
    )

    with running(home, "killed") as process:
        _, said = process.communicate()
        assert process.returncode == 0, said.decode()
    whole = here(home, "other")
    swept = sweep(opened(home, "whole", "other"), whole, only=RUNS)

    assert set(states(swept).values()) == {"done"}
    assert made(home / "killed") == made(home / "whole")
    assert sum("model.safetensors" in name for name in made(home / "whole")) == 4
    again = here(home)
    assert (
        set(states(sweep(opened(home, "killed"), again)).values()) == {"done"} and again.ran == []
    )


def test_what_has_the_same_digest_is_made_once(home: Path) -> None:
    """Two corpora of one text are one text on disk, and another ratio decodes nothing again."""
    more = "  - {name: half, recipe: r.yaml, set: {mix.synthetic: 0.5}}\nmatrix:"
    (home / "s.yaml").write_text(SWEEP.replace("matrix:", more), encoding="utf-8")

    swept = sweep(opened(home, "out"), here(home), only=["plain", "cd", "half"])

    assert set(states(swept)) == {"build plain", "build cd", "build half"} | {
        f"{kind} cd-1" for kind in ("train", "eval")
    }
    corpora = home / "out/corpora"
    assert len({file.stat().st_ino for file in corpora.glob("*/data/real/real-train-*.tar")}) == 1
    synthetic = [next(corpora.glob(f"{name}/data/synthetic/*.tar")) for name in ("cd", "half")]
    assert synthetic[0].name == synthetic[1].name and synthetic[0].samefile(synthetic[1])
    assert len(list((home / "cache/models").iterdir())) == 1
    report = json.loads((corpora / "half/work/report.json").read_text(encoding="utf-8"))
    assert report["decode_tokens_per_s"] == 0


def test_one_failure_is_named_and_the_others_go_on(home: Path) -> None:
    """A corpus that cannot be built takes its runs with it; the rest is done, and the next call does the rest."""
    broken = SWEEP.replace(
        "{name: cd, recipe: r.yaml}",
        "{name: cd, recipe: r.yaml, set: {mix.size: 10000000, mix.repeat: error}}",
    )
    (home / "s.yaml").write_text(broken, encoding="utf-8")

    swept = sweep(opened(home, "out"), here(home), only=RUNS)

    found = states(swept)
    assert found["eval baseline-1"] == "done"
    assert [name for name, state in found.items() if state == "failed"] == [
        *("build cd", "train cd-1", "eval cd-1"),
    ]
    errors = {step.job.name: step.error for step in swept.steps}
    assert "log: " in errors["build cd"] and "mix.size 10000000 needs" in errors["build cd"]
    assert errors["train cd-1"] == "not begun: it needs build cd"
    (home / "s.yaml").write_text(SWEEP, encoding="utf-8")
    repaired = here(home)
    assert sweep(opened(home, "out"), repaired, only=RUNS).is_complete
    assert repaired.ran == ["build cd", "train cd-1", "eval cd-1"]


def test_pieces_bring_back_what_a_comparison_needs(home: Path) -> None:
    """One run on each of two bare machines; a third has their small files and compares them."""
    for piece in ("baseline-1", "cd-1"):
        study = opened(home, piece, cache=f"cache-{piece}")
        sweep(study, here(home, f"cache-{piece}"), only=[piece])
        bring_results(study, home / "third")
    (home / "third/work").mkdir()
    assert not list((home / "third").rglob("*.tar")) + list((home / "third").rglob("*.safetensors"))

    third = here(home)
    swept = sweep(opened(home, "third"), third, only=RUNS)

    assert swept.is_complete and third.ran == []
    assert states(swept)["build cd"] == "spared" and states(swept)["train cd-1"] == "done"
    (home / "third/runs/cd-1/eval/sweep.json").unlink()
    left = {step.job.name: step.state for step in opened(home, "third").steps(RUNS)}
    assert {name for name, state in left.items() if state == "todo"} == {
        *("build cd", "train cd-1", "eval cd-1"),  # to be evaluated, it has to be trained here
    }


def test_a_later_generation_waits_for_the_one_before(home: Path) -> None:
    """Its expert is a run of this sweep, so its digest is not known before."""
    text = SWEEP.replace("matrix:", SECOND + "matrix:").replace(
        "{name: cd, corpus: cd}", "{name: second, corpus: second}\n    - {name: cd, corpus: cd}"
    )
    (home / "s.yaml").write_text(text, encoding="utf-8")
    study = opened(home, "out")
    assert {step.job.name: step.state for step in study.steps(["second-1"])}[
        "build second"
    ] == "waiting"

    swept = sweep(study, here(home), only=["second-1"])

    assert states(swept) == dict.fromkeys(
        ("build cd", "train cd-1", "build second", "train second-1", "eval second-1"), "done"
    )
    lock = json.loads((home / "out/corpora/second/manifest.json").read_text(encoding="utf-8"))
    assert len(lock["also"]) == 1


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "recipe: r.yaml}",
            "recipe: x.yaml}",
            r"s\.yaml:5:5: corpora\[1\]: .*x\.yaml: no such recipe",
        ),
        (
            "recipe: r.yaml}",
            "recipe: r.yaml, set: {decode.alpa: 1}}",
            r"corpora\[1\]: --set decode\.alpa=1: unknown field",
        ),
        (
            "mix.synthetic: 0.0",
            "mix.sythetic: 0.0",
            r"conditions\[0\]: --set mix\.sythetic=0\.0: unknown field",
        ),
        ("run: run.yaml", "run: r.yaml", r"conditions\[0\]: .*unknown field"),
    ],
)
def test_a_mistake_in_what_it_names_is_said_before_any_work(
    home: Path, old: str, new: str, expected: str
) -> None:
    (home / "s.yaml").write_text(SWEEP.replace(old, new), encoding="utf-8")

    with pytest.raises(UsageError, match=expected):
        opened(home, "out")
    assert not (home / "out").exists()


def test_a_folder_that_holds_something_else_is_refused(home: Path) -> None:
    with pytest.raises(UsageError, match="holds files that are not a sweep's"):
        opened(home, "data")
