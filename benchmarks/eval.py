"""The speed of `cdgen eval` beside the BabyLM 2025 pipeline, lm-eval with its default settings, and arithmetic.

    python benchmarks/eval.py CHECKPOINT --pipeline DIR --data DIR [--python PYTHON] [--limit N] [--threads 2]

Every tool is a process of its own and scores the same items (the first N of each part), then a few of them: the
difference leaves start and loading out. CPU seconds count beside wall seconds, for machines that others use too. The
floor is what the multiplications of every different beginning cost at this machine's own speed. Sharing grows with the
number of items, so a small N flatters the others.
"""

import argparse
import json
import os
import resource
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from eval_parity import FOLDERS, OFFLINE, lay_out, lm_eval_command, search_path

from cdgen.decode.models import load, vocab_size_of
from cdgen.evaluation.places import EvalData
from cdgen.evaluation.tasks import read_task
from cdgen.evaluation.tokens import TextEncoder

FEW = 1
"""Items of each part of the run that is subtracted."""


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--pipeline", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument(
        "--python", default="python", help="the interpreter of pipeline and lm-eval"
    )
    parser.add_argument("--limit", type=int, help="items of each part; all by default")
    parser.add_argument("--tasks", default="blimp,entity_tracking")
    parser.add_argument("--tools", default="cdgen,pipeline,lm-eval")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="eval-speed-") as folder:
        many = lay_out(given.data, Path(folder) / "many", given.limit)
        few = lay_out(given.data, Path(folder) / "few", FEW)
        print(f"{'task':<18}{'tool':<12}{'wall s':>9}{'CPU s':>9}{'x wall':>8}{'x CPU':>8}")
        for task in given.tasks.split(","):
            measure(task, many, few, Path(folder), given)


def measure(task: str, many: Path, few: Path, folder: Path, given: argparse.Namespace) -> None:
    """One task by every tool."""
    first: tuple[float, float] | None = None
    for tool in given.tools.split(","):
        commands = COMMANDS[tool]
        both = [
            seconds(commands(task, data, folder / f"{tool}-{task}-{data.name}", given), given)
            for data in (few, many)
        ]
        wall, cpu = (more - less for less, more in zip(*both, strict=True))
        first = first or (wall, cpu)
        print(
            f"{task:<18}{tool:<12}{wall:>9.1f}{cpu:>9.1f}{wall / first[0]:>8.1f}{cpu / first[1]:>8.1f}",
            flush=True,
        )
    flops, rate = floor(task, many, given)
    print(
        f"{task:<18}{'floor':<12}{flops / rate:>9.1f}{'':>9} {flops / 1e12:.2f} TFLOP at {rate / 1e9:.0f} GFLOP/s"
    )


def seconds(command: list[str], given: argparse.Namespace) -> tuple[float, float]:
    """(wall, CPU) seconds of a process and its children."""
    threads = {name: str(given.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        command,
        cwd=given.pipeline,
        env={**os.environ, **OFFLINE, **threads, "PYTHONPATH": search_path(given.pipeline)},
        capture_output=True,
        text=True,
        check=False,
    )
    wall = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(f"{command}:\n{done.stderr[-3000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _cdgen(task: str, data: Path, out: Path, given: argparse.Namespace) -> list[str]:
    return [
        given.python, "-m", "cdgen", "eval", str(given.checkpoint.resolve()), "--tasks", task, "--data", str(data),
        "--out", str(out), "--device", "cpu",
    ]  # fmt: skip


def _pipeline(task: str, data: Path, out: Path, given: argparse.Namespace) -> list[str]:
    name, folder = FOLDERS[task]
    return [
        given.python, "-m", "evaluation_pipeline.sentence_zero_shot.run", "--model_path_or_name",
        str(given.checkpoint.resolve()), "--backend", "causal", "--task", name, "--data_path", str(data / folder),
        "--output_dir", str(out),
    ]  # fmt: skip


def _lm_eval(task: str, data: Path, out: Path, given: argparse.Namespace) -> list[str]:
    command, _ = lm_eval_command(
        given.checkpoint.resolve(), data / FOLDERS[task][1], out, given.python, batch="1", task=task
    )
    return command


COMMANDS: dict[str, Callable[..., list[str]]] = {
    "cdgen": _cdgen,
    "pipeline": _pipeline,
    "lm-eval": _lm_eval,
}


def floor(task: str, data: Path, given: argparse.Namespace) -> tuple[float, float]:
    """(FLOP of the linear layers on every different beginning, FLOP/s of a large multiplication here)."""
    torch.set_num_threads(given.threads)
    model = load(given.checkpoint, dtype=torch.float32, device=torch.device("cpu"))
    options = [
        option for item in read_task(task, EvalData(data), None).items for option in item.options
    ]
    sequences = TextEncoder.load(given.checkpoint).sequences(options)
    beginnings = {one.ids[:n].tobytes() for one in sequences for n in range(1, len(one.ids))}
    projected = {one.ids[:n].tobytes() for one in sequences for n in range(one.start, len(one.ids))}
    embedding = model.get_input_embeddings().weight
    linear = sum(
        one.numel() for one in model.parameters() if one.ndim == 2 and one is not embedding
    )
    head = vocab_size_of(model) * embedding.shape[1]
    if model.get_output_embeddings().weight is not embedding:
        linear -= head
    flops = 2.0 * (linear * len(beginnings) + head * len(projected))
    a = torch.randn(1024, 1024)
    torch.mm(a, a)
    started = time.perf_counter()
    for _ in range(5):
        torch.mm(a, a)
    return flops, 5 * 2 * 1024**3 / (time.perf_counter() - started)


if __name__ == "__main__":
    print(json.dumps({"torch": torch.__version__, "cores": os.cpu_count()}))
    main()
