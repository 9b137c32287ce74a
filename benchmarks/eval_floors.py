"""The floors of `cdgen eval`: what small Llamas with random weights score, and the rule "fewest tokens".

python benchmarks/eval_floors.py --data DIR --tokenizer DIR [--seeds 3] [--tasks T,…] [--limit N]
"""

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from cdgen.builders.evaluate import evaluate_all, task_names
from cdgen.evaluation.items import Item
from cdgen.evaluation.places import EvalData
from cdgen.evaluation.scores import task_score
from cdgen.evaluation.tasks import CHOICE_TASKS, DERIVED, read_task
from cdgen.evaluation.tokens import TextEncoder
from cdgen.reports.progress import listener


def main() -> None:
    """Print lowest and highest score of every task, and the rule's."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument(
        "--tokenizer", type=Path, required=True, help="a folder with tokenizer.json"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--limit", type=int)
    parser.add_argument(
        "--tasks", default="blimp,blimp_supplement,entity_tracking,wug_adj,reading,eye_tracking"
    )
    given = parser.parse_args()
    tasks = task_names(given.tasks.split(","))
    scores: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        models = [untrained(Path(folder), given.tokenizer, seed) for seed in range(given.seeds)]
        done = evaluate_all(
            [str(model) for model in models],
            tasks,
            data=given.data,
            limit=given.limit,
            out=Path(folder) / "out",
            device="cpu",
            progress=listener(sys.stderr),
        )
        for one in done:
            for task, found in one.tasks.items():
                scores.setdefault(task, []).append(found["score"])
        rules = fewest_tokens(models[0], tasks, EvalData(given.data), given.limit)
    for task, found in scores.items():
        about = {
            "untrained": [round(one, 4) for one in sorted(found)],
            "fewest tokens": rules.get(task),
        }
        print(task, json.dumps(about))


def untrained(folder: Path, tokenizer: Path, seed: int) -> Path:
    """A model folder with random weights."""
    place = folder / f"seed-{seed}"
    torch.manual_seed(seed)
    vocabulary = len(TextEncoder.load(tokenizer).tokenizer)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=128, intermediate_size=384, num_hidden_layers=4, num_attention_heads=4,
        max_position_embeddings=512,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(place)
    for file in tokenizer.glob("tokenizer*.json"):
        shutil.copyfile(file, place / file.name)
    return place


def fewest_tokens(
    model: Path, tasks: list[str], data: EvalData, limit: int | None
) -> dict[str, float]:
    """The score of choosing the option with the fewest tokens; equal ones share the point."""
    encoder = TextEncoder.load(model)
    found = {}
    for task in tasks:
        if task not in CHOICE_TASKS or task == "wug_adj":
            continue
        items = read_task(task, data, limit).items
        sizes = [[len(one.ids) for one in encoder.sequences(item.options)] for item in items]
        chosen = [(some[0] == min(some)) / some.count(min(some)) for some in sizes]
        found[task] = _score(task, items, chosen)
        for name, (source, tag) in DERIVED.items():
            if source == task:
                kept = [i for i, item in enumerate(items) if tag in item.tags]
                found[name] = _score(name, [items[i] for i in kept], [chosen[i] for i in kept])
    return found


def _score(task: str, items: list[Item], values: list[float]) -> float:
    columns = {"part": [item.part for item in items], "value": values}
    return round(float(task_score(task, columns)), 4)


if __name__ == "__main__":
    main()
