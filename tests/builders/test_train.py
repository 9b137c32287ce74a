"""`cdgen train`: any share of a corpus, the same numbers after any crash, on any number of processes."""

import csv
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from run_files import CORPUS, TRAIN, Interrupting, killed, run_file
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

import cdgen
from cdgen.builders.train import Trained, train
from cdgen.cli import app
from cdgen.errors import BuildError, UsageError
from cdgen.storage import hold
from cdgen.training.record import read_record


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Trained]:
    """(the run file, the run that nothing interrupted)."""
    home = tmp_path_factory.mktemp("calm")
    file = run_file(home)
    return file, train(file, home / "run")


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a run but what is in work/."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "work" not in path.relative_to(folder).parts
    }


def losses(folder: Path) -> list[float]:
    with (folder / "losses.csv").open(encoding="utf-8") as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def test_a_run_folder_has_checkpoints_losses_and_its_record(calm: tuple[Path, Trained]) -> None:
    _, done = calm
    record = read_record(done.out)

    assert record == done.record
    assert (record.name, record.condition, record.seed) == ("tiny", "tiny", 7)
    assert [kept.step for kept in record.checkpoints] == [3, 6, 9]
    assert record.corpus.digest == cdgen.open_corpus(CORPUS).manifest.digest
    assert len(losses(done.out)) == 9 and losses(done.out)[-1] < losses(done.out)[0]
    assert {path.name for path in done.out.iterdir()} == {
        "run.json", "losses.csv", "step-000003", "step-000006", "step-000009", "work",
    }  # fmt: skip
    assert {path.name for path in (done.out / "work").iterdir()} == {"lock", "run.json"}
    text = (done.out / "run.json").read_text(encoding="utf-8")
    assert str(CORPUS) not in text and str(done.out) not in text


def test_a_checkpoint_loads_by_itself(calm: tuple[Path, Trained]) -> None:
    folder = calm[1].out / "step-000009"
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)

    assert model.config.vocab_size == len(tokenizer)


def test_the_record_counts_what_was_read(tmp_path: Path) -> None:
    """By source, to the token, against every document of every block; epochs are counted as passes."""
    file = run_file(tmp_path, "mix: {synthetic: 0.5}")
    done = train(file, tmp_path / "run")

    blocks = cdgen.blocks(CORPUS, block=32, seed=7, synthetic=0.5, size=9 * 128, repeat="allow")
    read = {"real": 0, "synthetic": 0}
    for number in range(9 * 4):
        for piece in blocks.at(number):
            read[piece["source"]] += piece["stop"] - piece["start"]
    sources = done.record.sources
    assert {name: source.tokens for name, source in sources.items()} == read
    assert done.record.synthetic_share.asked == 0.5
    assert done.record.synthetic_share.realised == read["synthetic"] / (9 * 128)
    synthetic = sum(shard.num_tokens for shard in cdgen.open_corpus(CORPUS).shards("synthetic"))
    assert sources["synthetic"].passes == read["synthetic"] / synthetic > 1


@pytest.mark.parametrize("share", ["synthetic: 0.0", "synthetic: 1.0", "weights: {real: 1}"])
def test_any_share_can_be_read(tmp_path: Path, share: str) -> None:
    file = run_file(tmp_path, f"mix: {{{share}}}", train=TRAIN.replace("steps: 9", "steps: 2"))
    done = train(file, tmp_path / "run")

    assert done.record.synthetic_share.realised == float(share == "synthetic: 1.0")


def test_a_finished_run_costs_nothing(calm: tuple[Path, Trained]) -> None:
    """It is recognised, also in a copy without work/; another name for it is written down."""
    file, done = calm
    listening = Interrupting(0)
    again = train(file, done.out, progress=listening)

    assert again.was_finished and listening.stages == 0
    assert again.record == done.record
    copy = done.out.with_name("copy")
    shutil.copytree(done.out, copy, ignore=shutil.ignore_patterns("work"))
    named = cdgen.load_run(file, set=["condition=baseline"])
    assert train(named, copy).was_finished
    found = read_record(copy)
    assert found is not None and found.condition == "baseline"


@pytest.mark.parametrize("stop_at", [2, 3, 7])
def test_an_interrupted_run_goes_on_to_the_same_bytes(
    calm: tuple[Path, Trained], tmp_path: Path, stop_at: int
) -> None:
    """Weights, losses, perplexities, record: of every file."""
    file, done = calm
    with pytest.raises(InterruptedError):
        train(file, tmp_path / "run", progress=Interrupting(stop_at))
    assert read_record(tmp_path / "run") is None

    resumed = train(file, tmp_path / "run")

    assert resumed.resumed_from == (6 if stop_at == 7 else 0)
    assert content(tmp_path / "run") == content(done.out)


def test_a_killed_run_goes_on_on_any_number_of_processes(
    calm: tuple[Path, Trained], tmp_path: Path
) -> None:
    """kill -9. On one process: the same bytes. Begun on two and finished on one: the same blocks in every step.

    There losses differ by the order of float32 sums alone: 1e-5 of about 6 nats.
    """
    file, done = calm
    processes = [*killed(file, tmp_path / "one", 8), *killed(file, tmp_path / "two", 8, ranks=2)]
    codes = [process.wait(timeout=500) for process in processes[:2]]
    processes[2].kill()  # it waits for a rank that is gone
    processes[2].wait()
    assert codes == [-9, -9]

    one, two = (train(file, tmp_path / name) for name in ("one", "two"))

    assert (one.resumed_from, two.resumed_from) == (6, 6)
    assert content(one.out) == content(done.out)
    assert losses(two.out) == pytest.approx(losses(done.out), rel=1e-5)
    for ours, theirs in zip(two.record.checkpoints, done.record.checkpoints, strict=True):
        assert ours.perplexity == pytest.approx(theirs.perplexity, rel=1e-4)
    assert two.record.sources == done.record.sources


def test_accumulation_does_not_change_what_a_step_learns(
    calm: tuple[Path, Trained], tmp_path: Path
) -> None:
    """A batch in four forward passes: the same blocks, sums in another order."""
    file = run_file(
        tmp_path,
        train=TRAIN.replace("batch_tokens: 128", "batch_tokens: 128, micro_batch_tokens: 32"),
    )
    done = train(file, tmp_path / "run")

    assert losses(done.out) == pytest.approx(losses(calm[1].out), rel=1e-5)


def test_training_goes_on_from_a_model(calm: tuple[Path, Trained], tmp_path: Path) -> None:
    """The first loss is that of the given weights, and so are the weights after steps of length nought."""
    start = calm[1].out / "step-000009"
    steps = (
        "{context: 32, steps: 2, batch_tokens: 128, warmup_steps: 0, learning_rate: 1.0e-30,\n"
        "  weight_decay: 0.0, threads: 1}"
    )
    file = run_file(tmp_path, f"start: {{path: {start}}}", train=steps)
    done = train(file, tmp_path / "run")

    ours, theirs = (
        load_file(folder / "model.safetensors") for folder in (done.out / "step-000002", start)
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    best = calm[1].record.checkpoints[-1]
    assert done.record.checkpoints[0].perplexity == best.perplexity
    assert "sha256" in done.record.spec["start"]


def test_the_held_out_split_is_that_of_another_corpus_if_it_is_named(
    calm: tuple[Path, Trained], tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(CORPUS, copy)
    file = run_file(tmp_path, f"held_out: {copy}")
    inputs = cdgen.load_run(file)

    assert train(inputs, tmp_path / "run").record.checkpoints == calm[1].record.checkpoints


WRONG = [
    ("mix: {synthetic: 1.5}", ":4:18: mix.synthetic: must be less than or equal to 1"),
    ("mix: {sythetic: 0.5}", ":4:7: unknown field 'mix.sythetic' (did you mean 'synthetic'?)"),
    ("mix: {synthetic: 0.1, weights: {real: 1}}", "both say the share"),
    ("mix: {weights: {fake: 1}}", ":4:6: mix: no source 'fake': the corpus has real, synthetic"),
    ("mix: {max_passes: {fake: 1}}", "no source 'fake': the corpus has real, synthetic"),
    ("mix: {synthetic: 0.9, repeat: error}", ":4:31: mix.repeat: the run reads 1,0"),
    ("mix: {synthetic: 0.9, max_passes: {synthetic: 2}}", "and may read them 2 times; take fewer"),
    ("start: {path: nowhere}", "belongs to a new model; the one of start brings its own"),
    ("held_out: nowhere", ":4:11: held_out: "),
    ("corpora: x", "unknown field 'corpora' (did you mean 'corpus'?)"),
]


@pytest.mark.parametrize(("line", "said"), WRONG)
def test_a_wrong_run_is_one_line_before_anything_is_written(
    tmp_path: Path, line: str, said: str
) -> None:
    file = run_file(tmp_path / "files", line)
    out = tmp_path / "run"

    with pytest.raises(UsageError) as caught:
        train(file, out)

    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{file}:4:") or "train." in str(caught.value)
    assert not out.exists()


def test_no_corpus_no_eval_split(tmp_path: Path) -> None:
    file = run_file(tmp_path)
    with pytest.raises(UsageError, match=r"no manifest\.json, so no finished corpus"):
        train(cdgen.load_run(file, set=["corpus=nowhere"]), tmp_path / "run")


def test_a_folder_with_something_else_is_left_alone(
    calm: tuple[Path, Trained], tmp_path: Path
) -> None:
    file, done = calm
    with pytest.raises(UsageError, match=r"holds another run: train\.seed is 7 there, 8 here"):
        train(cdgen.load_run(file, set=["train.seed=8"]), done.out)
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(UsageError, match="holds files that are not a cdgen run"):
        train(file, tmp_path)


def test_one_process_trains_in_a_folder(calm: tuple[Path, Trained], tmp_path: Path) -> None:
    with hold(tmp_path / "run", "a test"), pytest.raises(BuildError, match="is held by process"):
        train(calm[0], tmp_path / "run")


def test_a_training_that_diverges_says_so(tmp_path: Path) -> None:
    wild = TRAIN.replace("1.0e-2", "1.0e+38").replace("warmup_steps: 2", "warmup_steps: 0")
    with pytest.raises(BuildError, match="the training diverged: the loss of step"):
        train(run_file(tmp_path, train=wild), tmp_path / "run")


def test_the_command_line(calm: tuple[Path, Trained], tmp_path: Path) -> None:
    """check, train, and train again; JSON for programs."""
    file, done = calm
    cli = CliRunner()
    checked = cli.invoke(app, ["check", str(file), "--json"])
    assert json.loads(checked.stdout)["kind"] == "run file"
    wrong = cli.invoke(app, ["check", str(file), "--set", "train.stepps=3"])
    assert isinstance(wrong.exception, UsageError)

    told = cli.invoke(app, ["train", str(file), "--out", str(done.out), "--json"])
    assert told.exit_code == 0, told.exception
    facts = json.loads(told.stdout)
    assert facts["was_finished"] and facts["record"]["digest"] == done.record.digest
    said = cli.invoke(app, ["train", str(file), "--out", str(done.out)]).stdout
    assert "was finished already; next: cdgen eval" in said
    assert "20.0000% asked for" in said
