"""Show that `cdgen eval` gives the BabyLM 2025 pipeline's scores and predictions, item by item, and lm-eval's.

    python benchmarks/eval_parity.py CHECKPOINT… --pipeline DIR --data DIR [--python PYTHON] [--limit N] [--lm-eval]
        [--keep DIR]

`--pipeline` is a checkout of babylm/evaluation-pipeline-2025, which runs as it is, offline, with PYTHON (it needs
pandas, statsmodels, scipy, datasets and aiohttp). EWoK's items are ours: its own may not be handed on. With `--keep` a
call that was stopped goes on with the task it was at. Exit 1: a score differs by more than rounding, or a prediction
where the scores of two options are not equal to rounding.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from cdgen.evaluation.places import (
    ENTITY_TRACKING_PASSWORD,
    EvalData,
    jsonl_rows,
    zipped_rows,
)
from cdgen.evaluation.results import read_evaluation
from cdgen.evaluation.scores import task_score
from cdgen.evaluation.tasks import read_task

OFFLINE = dict.fromkeys(("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"), "1")
TIE_NATS = 1e-3
"""Options nearer to each other than this are equal to the rounding of float32 sums."""
FOLDERS = {
    "blimp": ("blimp", "blimp_filtered"),
    "blimp_supplement": ("blimp", "supplement_filtered"),
    "ewok": ("ewok", "ewok_filtered"),
    "entity_tracking": ("entity_tracking", "entity_tracking"),
    "wug_adj": ("wug_adj", "wug_adj_nominalization"),
}
"""By our task: the pipeline's task, and its folder."""
EWOK = [
    ("The ball is in the box.", "The ball is on the box.", "It lies in it.", "It lies on it.", "place"),
    ("Anna gave Ben the book.", "Ben gave Anna the book.", "Ben has the book.", "Anna has the book.", "exchange"),
    ("It rained all night.", "It was dry all night.", "The street is wet.", "The street is dusty.", "weather"),
]  # fmt: skip


@dataclass
class Found:
    """One task's comparison."""

    ours: float
    theirs: float
    items: int
    largest: float = 0.0
    """Difference of a number per item."""
    ties: int = 0
    other: list[str] = field(default_factory=list)
    """Items predicted otherwise although their options are apart."""


def main() -> None:
    """Compare every checkpoint."""
    given = arguments()
    with tempfile.TemporaryDirectory(prefix="eval-parity-") as temporary:
        data = lay_out(given.data, Path(temporary) / "data", given.limit)
        kept = Path(temporary) / "kept" if given.keep is None else given.keep.resolve()
        failed = False
        for checkpoint in given.checkpoints:
            failed |= compare(checkpoint.resolve(), data, kept, given)
    sys.exit(failed)


def arguments() -> argparse.Namespace:
    """Parse the options."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("checkpoints", nargs="+", type=Path)
    parser.add_argument("--pipeline", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--python", default=sys.executable, help="the interpreter for the pipeline")
    parser.add_argument("--limit", type=int, help="items of each part at most")
    parser.add_argument(
        "--lm-eval", action="store_true", help="compare with lm-eval too (blimp, supplement)"
    )
    parser.add_argument("--tasks", default=",".join([*FOLDERS, "reading"]))
    parser.add_argument(
        "--keep", type=Path, help="what both tools said stays here, and is not asked for again"
    )
    return parser.parse_args()


def lay_out(source: Path, target: Path, limit: int | None) -> Path:
    """The pipeline's layout, with `limit` items of each part; gone with the temporary folder."""
    found = EvalData(source)
    for name in ("blimp_filtered", "supplement_filtered", "wug_adj_nominalization"):
        for file in sorted(found.find(name, name).glob("*.jsonl")):
            write_rows(target / name / file.name, [row for _, row in jsonl_rows(file)], limit)
    archive = found.find("entity_tracking", "entity_tracking.zip")
    for name in ("regular", "ambiref", "move_contents"):
        rows = [row for _, row in zipped_rows(archive, f"{name}.jsonl", ENTITY_TRACKING_PASSWORD)]
        write_rows(target / "entity_tracking" / f"{name}.jsonl", rows, limit, by="numops")
    write_rows(target / "ewok_filtered/ours.jsonl", list(ewok_rows()), None)
    reading = found.find("reading", "reading/reading_data.csv").read_text(encoding="utf-8")
    lines = reading.splitlines(keepends=True)
    kept = lines if limit is None else lines[: 1 + max(200, limit)]
    (target / "reading").mkdir()
    (target / "reading/reading_data.csv").write_text("".join(kept), encoding="utf-8")
    return target


def ewok_rows() -> Iterator[dict[str, str]]:
    """Items of our own in the form of EWoK."""
    for one, other, right, wrong, domain in EWOK:
        about = {"Domain": domain, "ContextType": "direct", "ContextDiff": "", "TargetDiff": ""}
        yield {"Context1": one, "Context2": other, "Target1": right, "Target2": wrong, **about}
        yield {"Context1": other, "Context2": one, "Target1": wrong, "Target2": right, **about}


def write_rows(file: Path, rows: list[dict[str, Any]], limit: int | None, by: str = "") -> None:
    """The rows as a file, `limit` of each value of the field `by` at most."""
    seen: dict[Any, int] = {}
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", encoding="utf-8") as out:
        for row in rows:
            part = row.get(by)
            seen[part] = seen.get(part, 0) + 1
            if limit is None or seen[part] <= limit:
                out.write(json.dumps(row) + "\n")


def compare(checkpoint: Path, data: Path, kept: Path, given: argparse.Namespace) -> bool:
    """One checkpoint on every task; True: something differs."""
    print(
        f"\n{checkpoint.name}\n{'task':<20}{'cdgen':>12}{'pipeline':>12}{'items':>8}{'ties':>6}"
        f"{'CPU s':>8}{'theirs':>8}  largest difference"
    )
    failed = False
    for task in given.tasks.split(","):
        place = kept / checkpoint.name / f"{task}-{given.limit or 'all'}"
        ours = our_results(task, checkpoint, data, place / "cdgen", given)
        output, cpu_s = run_pipeline(task, checkpoint, data, place / "pipeline", given)
        named = {"reading": reading_found}.get(task, choice_found)
        for name, found in named(task, ours, output).items():
            bad = abs(found.ours - found.theirs) > 1e-5 * max(1, abs(found.theirs)) or found.other
            failed |= bool(bad)
            print(
                f"{name:<20}{found.ours:>12.6f}{found.theirs:>12.6f}{found.items:>8,}{found.ties:>6}"
                f"{ours.cpu_s:>8.1f}{cpu_s:>8.1f}  "
                f"{found.largest:.1e}{'  DIFFERS ' + ' '.join(found.other[:5]) if bad else ''}",
                flush=True,
            )
        if given.lm_eval and task in ("blimp", "blimp_supplement"):
            failed |= compare_with_lm_eval(task, checkpoint, data, ours, given)
    return failed


@dataclass(frozen=True)
class Ours:
    """What `cdgen eval` says: tasks of results.json, items.parquet, the data, and what it cost with its start."""

    scores: dict[str, Any]
    items: pa.Table
    data: Path
    cpu_s: float


def our_results(
    task: str, checkpoint: Path, data: Path, out: Path, given: argparse.Namespace
) -> Ours:
    """Evaluate here, as a user would."""
    named = {"reading": "reading,eye_tracking"}.get(task, task)
    command = [
        given.python,
        "-m",
        "cdgen",
        "eval",
        checkpoint,
        "--tasks",
        named,
        "--data",
        data,
        "--out",
        out,
    ]
    cpu_s = once(out, [*command, "--device", "cpu"], given)
    found = read_evaluation(out / checkpoint.name)
    assert found is not None
    return Ours(found.scores(), found.items, data, cpu_s)


def run_pipeline(
    task: str, checkpoint: Path, data: Path, output: Path, given: argparse.Namespace
) -> tuple[Path, float]:
    """Run the pipeline as it is: (what it wrote, CPU seconds)."""
    common = ["--model_path_or_name", checkpoint, "--backend", "causal", "--output_dir", output]
    if task == "reading":
        command = ["reading.run", "--data_path", data / "reading/reading_data.csv"]
    else:
        name, folder = FOLDERS[task]
        command = [
            "sentence_zero_shot.run",
            "--task",
            name,
            "--data_path",
            data / folder,
            "--save_predictions",
        ]
    module, *rest = command
    called = [given.python, "-m", f"evaluation_pipeline.{module}", *common, *rest]
    return output, once(output, called, given)


def once(folder: Path, command: list[Any], given: argparse.Namespace) -> float:
    """CPU seconds of a process that fills a folder, unless it did so before."""
    done = folder / "cpu_s.json"
    if not done.is_file():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        ran = subprocess.run(
            [str(part) for part in command],
            cwd=given.pipeline,
            env={**os.environ, **OFFLINE, "PYTHONPATH": search_path(given.pipeline)},
            capture_output=True,
            text=True,
            check=False,
        )
        if ran.returncode:
            sys.exit(f"failed: {' '.join(map(str, command))}\n{ran.stderr[-3000:]}")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        done.write_text(json.dumps(spent), encoding="utf-8")
    return float(json.loads(done.read_text(encoding="utf-8")))


def search_path(pipeline: Path) -> str:
    """cdgen's checkout and the pipeline's."""
    return os.pathsep.join(map(str, (Path(__file__).resolve().parents[1], pipeline.resolve())))


def predictions(output: Path) -> dict[str, Any]:
    """What the pipeline saved."""
    (file,) = output.rglob("predictions.json")
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


def by_part(ours: "Ours", task: str) -> dict[str, list[tuple[list[str], dict[str, Any]]]]:
    """Of each part, as the pipeline calls it: (texts of the options, our row) in the order of the files."""
    found: dict[str, list[tuple[list[str], dict[str, Any]]]] = {}
    rows = ours.items.filter(pa.compute.equal(ours.items["task"], task)).to_pylist()
    for item, row in zip(read_task(task, EvalData(ours.data), None).items, rows, strict=True):
        assert (item.part, item.name) == (row["part"], row["item"])
        texts = [option.text[option.start :] for option in item.options]
        found.setdefault(row["part"].replace("/", "_"), []).append((texts, row))
    return found


def choice_found(task: str, ours: "Ours", output: Path) -> dict[str, Found]:
    """Predictions of the pipeline against ours; its score follows from its predictions."""
    theirs, parts = predictions(output), by_part(ours, task)
    assert {part: len(some) for part, some in parts.items()} == {
        part: len(some["predictions"]) for part, some in theirs.items()
    }
    found = Found(ours.scores[task]["score"], 0.0, sum(map(len, parts.values())))
    their_rows = []
    for part, some in parts.items():
        for (texts, row), prediction in zip(some, theirs[part]["predictions"], strict=True):
            choice, own = texts.index(prediction["pred"]), int(np.argmax(row["scores"]))
            value = prediction.get("prob", float(choice == row["gold"]))
            their_rows.append({**row, "value": value})
            if task == "wug_adj":
                found.largest = max(found.largest, abs(value - row["value"]))
            if choice != own:
                apart = row["scores"][own] - row["scores"][choice]
                found.ties += apart < TIE_NATS
                found.other += [] if apart < TIE_NATS else [f"{part}:{row['item']} ({apart:.1e})"]
    found.theirs = task_score(task, pa.Table.from_pylist(their_rows, schema=ours.items.schema))
    check_printed(found.theirs, output, percent=task != "wug_adj")
    return {task: found}


def check_printed(score: float, output: Path, *, percent: bool) -> None:
    """Our arithmetic on the pipeline's predictions must give the two digits that it prints itself."""
    (report,) = output.rglob("best_temperature_report.txt")
    printed = float(report.read_text(encoding="utf-8").split()[-1])
    assert abs((100 if percent else 1) * score - printed) < 0.00501, (score, printed)


def reading_found(_: str, ours: "Ours", output: Path) -> dict[str, Found]:
    """Surprisals word by word, and the two scores with the digits that the pipeline prints."""
    theirs = predictions(output)["reading"]["predictions"]
    (report,) = output.rglob("report.txt")
    printed = dict(line.split(": ") for line in report.read_text(encoding="utf-8").splitlines())
    names = {"eye_tracking": "EYE TRACKING SCORE", "reading": "SELF-PACED READING SCORE"}
    result = {}
    for task, name in names.items():
        rows = ours.items.filter(pa.compute.equal(ours.items["task"], task)).to_pylist()
        pairs = [(row["value"], one["pred"]) for row, one in zip(rows, theirs, strict=True)]
        before = [
            (row["inputs"][0], one["prev_pred"]) for row, one in zip(rows, theirs, strict=True)
        ]
        assert all(np.isnan(a) == np.isnan(b) for a, b in before)
        pairs += [pair for pair in before if not np.isnan(pair[0])]
        largest = max(abs(a - b) for a, b in pairs)
        score = ours.scores[task]["score"]
        their_score = float(printed[name]) / 100
        exact = abs(score - their_score) < 0.0000501
        found = Found(score, score if exact else their_score, len(rows), largest)
        found.other += ["surprisals"] if largest > TIE_NATS else []
        result[task] = found
    return result


def compare_with_lm_eval(
    task: str, checkpoint: Path, data: Path, ours: "Ours", given: argparse.Namespace
) -> bool:
    """The same minimal pairs as tasks of lm-eval: accuracies of every file."""
    with tempfile.TemporaryDirectory() as out:
        theirs = lm_eval_accuracies(checkpoint, data / FOLDERS[task][1], Path(out), given.python)
    parts = {
        str(row["item"]).partition(":")[0]: row["part"]
        for row in ours.items.filter(pa.compute.equal(ours.items["task"], task)).to_pylist()
    }
    apart = {
        stem: abs(ours.scores[task]["parts"][parts[stem]] - value) for stem, value in theirs.items()
    }
    bad = sorted(stem for stem, difference in apart.items() if difference > 1e-9)
    mean = float(np.mean(list(theirs.values())))
    print(
        f"{task:<20}{ours.scores[task]['score']:>12.6f}{mean:>12.6f} (lm-eval), {len(theirs)} files, "
        f"{len(bad)} differ {bad[:5]}",
        flush=True,
    )
    return bool(bad)


def lm_eval_accuracies(checkpoint: Path, folder: Path, out: Path, python: str) -> dict[str, float]:
    """lm-eval's accuracy of each file of minimal pairs, by the file's stem."""
    command, names = lm_eval_command(checkpoint, folder, out, python, batch="32")
    environment = {**os.environ, **OFFLINE, "HF_DATASETS_CACHE": str(out / "cache")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"lm-eval failed:\n{done.stderr[-3000:]}")
    (file,) = out.rglob("results_*.json")
    results = json.loads(file.read_text(encoding="utf-8"))["results"]
    return {stem: results[name]["acc,none"] for stem, name in names.items()}


def lm_eval_command(
    checkpoint: Path, folder: Path, out: Path, python: str, *, batch: str, task: str = "blimp"
) -> tuple[list[str], dict[str, str]]:
    """A call of lm-eval on the files of a folder as tasks of its own, and the tasks' names by file stem."""
    tasks = out / "tasks"
    tasks.mkdir(parents=True)
    names = {}
    fields = {"doc_to_text": "", "doc_to_choice": "{{[sentence_good, sentence_bad]}}"}
    if task == "entity_tracking":
        fields = {"doc_to_text": "{{input_prefix}}", "doc_to_choice": "{{options}}"}
    for number, file in enumerate(sorted(folder.glob("*.jsonl"))):
        name = names[file.stem] = f"choices_{number}"
        # JSON is YAML. Without target_delimiter a space would stand before every option.
        about = {
            "task": name, "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(file)}},
            "test_split": "test", "output_type": "multiple_choice", "doc_to_target": 0, "target_delimiter": "",
            "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}], **fields,
        }  # fmt: skip
        (tasks / f"{name}.yaml").write_text(json.dumps(about), encoding="utf-8")
    command = [
        python, "-m", "lm_eval", "run", "--model", "hf", "--model_args", f"pretrained={checkpoint},dtype=float32",
        "--tasks", ",".join(names.values()), "--include_path", str(tasks), "--batch_size", batch,
        "--device", "cpu", "--output_path", str(out / "results"),
    ]  # fmt: skip
    return command, names


if __name__ == "__main__":
    main()
