"""One checkpoint, evaluated: what an earlier call did is kept, what is done is written task by task."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import PreTrainedModel

from cdgen import __version__
from cdgen.corpus import Corpus
from cdgen.decode.models import load
from cdgen.evaluation import held_out, reading
from cdgen.evaluation.choices import score_choices
from cdgen.evaluation.places import EvalData
from cdgen.evaluation.results import (
    RESULTS,
    Evaluation,
    TaskRecord,
    read_evaluation,
    write_evaluation,
)
from cdgen.evaluation.scorer import Scorer
from cdgen.evaluation.table import items_table
from cdgen.evaluation.tasks import (
    CHOICE_TASKS,
    HARNESS_PREFIX,
    PERPLEXITY,
    READING_TASKS,
    read_task,
)
from cdgen.evaluation.tokens import TextEncoder
from cdgen.progress import Progress
from cdgen.storage import sha256_file

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where the items come from.

    Attributes:
        data: local copies of the tasks.
        corpus: whose eval split perplexity is measured on, if it is.
        limit: items of each part at most; None = all.
    """

    data: EvalData
    corpus: Corpus | None = None
    limit: int | None = None


def evaluate(
    folder: Path,
    *,
    name: str,
    tasks: Sequence[str],
    sources: Sources,
    out: Path,
    device: str,
    progress: Progress,
) -> Evaluation:
    """Evaluate a checkpoint; what `out` already holds of it, on the same data, is not done again.

    Args:
        folder: a model folder of transformers with safetensors and a fast tokenizer.
        name: what results.json calls it.
        tasks: their names; `lm_eval:<task>` for one of lm-eval's.
        sources: where the items come from.
        out: where results.json and items.parquet are written.
        device: cpu, cuda, …
        progress: told of every task.

    Raises:
        UsageError: the folder, the tokenizer or the data are not what they should be.
        BuildError: `out` holds something else, or cannot be written.
    """
    checkpoint = _Checkpoint(folder, device)
    model = {"name": name, **checkpoint.identity, **_machine(device)}
    found = read_evaluation(out)
    if found is None or found.model.get("sha256") != model["sha256"]:
        found = Evaluation.empty(model)
    session = _Session(checkpoint, sources, progress)
    for task in tasks:
        after = session.with_task(found, task)
        if after is found:
            progress.say(f"{task}: done before, on the same data")
        else:
            write_evaluation(out, after)
        found = after
    if not (out / RESULTS).is_file():  # killed between the two files
        write_evaluation(out, found)
    return found


@dataclass(frozen=True, slots=True)
class _Session:
    """One checkpoint and its data: adds tasks to what was found so far; the same object back: it was all there."""

    checkpoint: "_Checkpoint"
    sources: Sources
    progress: Progress

    def with_task(self, found: Evaluation, task: str) -> Evaluation:
        if task in CHOICE_TASKS:
            return self._with_choices(found, task)
        if task in READING_TASKS:
            return self._with_reading(found, task)
        if task == PERPLEXITY:
            return self._with_perplexity(found)
        assert task.startswith(HARNESS_PREFIX)
        return self._with_harness(found, task)

    def _with_choices(self, found: Evaluation, task: str) -> Evaluation:
        data = read_task(task, self.sources.data, self.sources.limit)
        if found.has(task, data.digest, self.sources.limit):
            return found
        scorer, encoder = self.checkpoint.scorer, self.checkpoint.encoder
        tables, besides = score_choices(task, data.items, scorer, encoder, self.progress)
        record = TaskRecord(data=data.digest, limit=self.sources.limit, besides=besides)
        for name, table in tables.items():
            found = found.with_task(name, record, table)
        return found

    def _with_reading(self, found: Evaluation, task: str) -> Evaluation:
        data = reading.read_reading(task, self.sources.data, self.sources.limit)
        if found.has(task, data.digest, self.sources.limit):
            return found
        surprisal = self._surprisals(task, data)
        items = [
            reading.as_item(task, one, surprisal[one.before] if one.before else math.nan)
            for one in data.items
        ]
        values = [surprisal[one.word] for one in data.items]
        table = items_table(task, items, values, [np.array([-value]) for value in values])
        return found.with_task(task, TaskRecord(data=data.digest, limit=self.sources.limit), table)

    def _surprisals(self, task: str, data: reading.ReadingData) -> dict[reading.Word, float]:
        words = reading.words_of(data)
        sequences = [reading.word_sequences(word, self.checkpoint.encoder) for word in words]
        plan = self.checkpoint.scorer.plan([one for some in sequences for one in some])
        with self.progress.stage(f"evaluate {task}", total=len(plan.rows), unit="row") as advance:
            logp = self.checkpoint.scorer.sums(plan, advance)
        parts = np.split(logp, np.cumsum([len(some) for some in sequences])[:-1])
        return {word: -float(part.sum()) for word, part in zip(words, parts, strict=True)}

    def _with_perplexity(self, found: Evaluation) -> Evaluation:
        assert self.sources.corpus is not None
        text = held_out.read_held_out(self.sources.corpus, self.checkpoint.folder)
        if found.has(PERPLEXITY, text.digest, None):
            return found
        model = self.checkpoint.model
        total = held_out.num_windows(model, text)
        with self.progress.stage("evaluate perplexity", total=total, unit="window") as advance:
            nats = held_out.document_nats(model, text, advance)
        items = held_out.document_items(text)
        table = items_table(PERPLEXITY, items, nats.tolist(), [np.array([-one]) for one in nats])
        record = TaskRecord(
            data=text.digest, limit=None, besides=held_out.bits_per_byte(nats, text)
        )
        return found.with_task(PERPLEXITY, record, table)

    def _with_harness(self, found: Evaluation, task: str) -> Evaluation:
        from cdgen.evaluation import harness

        if found.has(task, harness.digest(task), self.sources.limit):
            return found
        tokenizer = self.checkpoint.encoder.tokenizer
        with self.progress.stage(f"evaluate {task}", total=None, unit="task") as advance:
            record, table = harness.run(
                task, self.checkpoint.model, tokenizer, limit=self.sources.limit
            )
            advance(1)
        return found.with_task(task, record, table)


class _Checkpoint:
    """A model folder; hashed at once, loaded when something is to be scored."""

    def __init__(self, folder: Path, device: str) -> None:
        self.folder, self._device = folder, device

    @cached_property
    def identity(self) -> dict[str, str]:
        """sha256 of everything that decides a score, and of the weights alone."""
        weights = sorted(self.folder.glob("*.safetensors"))
        of_weights = sha256_file(weights[0]) if len(weights) == 1 else _joint_sha256(weights)
        names = ("config.json", *TOKENIZER_FILES)
        small = [self.folder / one for one in names if (self.folder / one).is_file()]
        whole = hashlib.sha256(f"{of_weights}{_joint_sha256(small)}".encode())
        return {"sha256": whole.hexdigest(), "weights_sha256": of_weights}

    @cached_property
    def model(self) -> PreTrainedModel:
        return load(self.folder, dtype=torch.float32, device=torch.device(self._device))

    @cached_property
    def scorer(self) -> Scorer:
        return Scorer.of(self.model)

    @cached_property
    def encoder(self) -> TextEncoder:
        return TextEncoder.load(self.folder)


def _joint_sha256(files: Sequence[Path]) -> str:
    total = hashlib.sha256()
    for file in files:
        total.update(f"{file.name}\0{sha256_file(file)}\n".encode())
    return total.hexdigest()


def _machine(device: str) -> dict[str, Any]:
    """What may move the last digits of a score."""
    return {
        "device": device.partition(":")[0],
        "dtype": "float32",
        "cdgen": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
