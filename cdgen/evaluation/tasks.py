"""The tasks by name, and the readers of their files.

Parts and options are those of the BabyLM 2025 pipeline, so that scores can be compared: option 0 is always right.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cdgen.errors import UsageError
from cdgen.evaluation.items import Item, Option, TaskData, files_digest, first_of_each_part
from cdgen.evaluation.places import (
    ENTITY_TRACKING_PASSWORD,
    EvalData,
    csv_rows,
    jsonl_files,
    jsonl_rows,
    number_of,
    text_of,
    texts_of,
    zipped_rows,
)

EQUAL_LENGTH, NOTHING = "equal_length", "nothing"
DERIVED = {
    f"entity_tracking_{EQUAL_LENGTH}": ("entity_tracking", EQUAL_LENGTH),
    f"entity_tracking_{NOTHING}": ("entity_tracking", NOTHING),
}
"""Tasks whose items are those of another one that have a tag."""

EWOK_ADVICE = (
    "its terms forbid handing the items on as plain text, so nobody ships them: accept the terms at "
    "https://huggingface.co/datasets/ewok-core/ewok-core-1.0 and make the files with "
    "`python -m evaluation_pipeline.ewok.dl_and_filter` of the BabyLM 2025 pipeline"
)
_ENTITY_FILES = ("regular", "ambiref", "move_contents")
_LANGUAGES = ("faroese", "icelandic")

Rows = Iterable[tuple[str, dict[str, Any]]]
Reader = Callable[[EvalData, int | None], TaskData]


def read_task(name: str, data: EvalData, limit: int | None) -> TaskData:
    """The items of a task.

    Args:
        name: one of CHOICE_TASKS.
        data: where the files are.
        limit: items of each part at most.

    Raises:
        UsageError: the files are not there, or not what they should be; names the line.
    """
    found = CHOICE_TASKS[name](data, limit)
    if not found.items:
        raise UsageError(f"{name}: its files hold no items")
    return found


def _task(files: list[Path], items: Iterable[Item], limit: int | None) -> TaskData:
    return TaskData(first_of_each_part(items, limit), files_digest(files))


@dataclass(frozen=True, slots=True)
class _Pairs:
    """Minimal pairs: `sentence_good` is to be likelier than `sentence_bad`."""

    task: str
    folders: tuple[str, ...]

    def __call__(self, data: EvalData, limit: int | None) -> TaskData:
        files = jsonl_files(data.find(self.task, *self.folders), self.task)
        return _task(files, self._items(files), limit)

    def _items(self, files: list[Path]) -> Iterator[Item]:
        for file in files:
            for number, (where, row) in enumerate(jsonl_rows(file)):
                good, bad = (text_of(row, f"sentence_{one}", where) for one in ("good", "bad"))
                # BLiMP names its paradigm; in the supplement the file does.
                part = text_of(row, "UID", where) if "field" in row else file.stem
                tags = [
                    row[one]
                    for one in ("field", "linguistics_term")
                    if isinstance(row.get(one), str)
                ]
                yield Item(
                    part=part,
                    name=f"{file.stem}:{number}",
                    options=(Option(good), Option(bad)),
                    tags=tuple(tags),
                )


def _ewok(data: EvalData, limit: int | None) -> TaskData:
    files = jsonl_files(data.find("ewok", "ewok_filtered", "ewok_fast", get=EWOK_ADVICE), "ewok")
    return _task(files, _ewok_items(files), limit)


def _ewok_items(files: list[Path]) -> Iterator[Item]:
    for file in files:
        for number, (where, row) in enumerate(jsonl_rows(file)):
            context, good, bad, domain = (
                text_of(row, field, where) for field in ("Context1", "Target1", "Target2", "Domain")
            )
            # The completion has the space: its first token may be the one that holds it.
            options = tuple(Option(f"{context} {target}", len(context)) for target in (good, bad))
            yield Item(part=domain, name=f"{file.stem}:{number}", options=options)


def _entity_tracking(data: EvalData, limit: int | None) -> TaskData:
    place = data.find(
        "entity_tracking", "entity_tracking.zip", "entity_tracking", "entity_tracking_fast"
    )
    if place.is_dir():
        files = [place / f"{name}.jsonl" for name in _ENTITY_FILES]
        files = [file for file in files if file.is_file()]
        if not files:
            raise UsageError(
                f"entity_tracking: none of {', '.join(_ENTITY_FILES)}.jsonl in {place}"
            )
        rows = [(file.stem, jsonl_rows(file)) for file in files]
    else:
        files = [place]
        rows = [
            (name, zipped_rows(place, f"{name}.jsonl", ENTITY_TRACKING_PASSWORD))
            for name in _ENTITY_FILES
        ]
    items = (item for stem, found in rows for item in _entity_items(stem, found))
    return _task(files, items, limit)


def _entity_items(stem: str, rows: Rows) -> Iterator[Item]:
    for number, (where, row) in enumerate(rows):
        prefix, options = text_of(row, "input_prefix", where), texts_of(row, "options", where)
        numops = int(number_of(row, "numops", where))
        is_nothing = options[0].strip(" .") == "nothing"
        is_equal = len({len(option.split()) for option in options}) == 1
        tags = [EQUAL_LENGTH] * is_equal + [NOTHING] * is_nothing
        yield Item(
            part=f"{stem}/{numops}_ops",
            name=str(number),
            options=tuple(Option(prefix + option, len(prefix)) for option in options),
            tags=tuple(tags),
        )


def _wug_adj(data: EvalData, limit: int | None) -> TaskData:
    place = data.find("wug_adj", "wug_adj_nominalization", "wug_adj_nominalization.jsonl")
    files = jsonl_files(place, "wug_adj")
    return _task(files, _wug_items(files), limit)


def _wug_items(files: list[Path]) -> Iterator[Item]:
    for file in files:
        for number, (where, row) in enumerate(jsonl_rows(file)):
            texts = text_of(row, "sentences", where).split("\t")
            if len(texts) != 2:
                raise UsageError(f"{where}: sentences must be two texts with a tab between them")
            yield Item(
                part="wug_adj",
                name=str(number),
                options=tuple(map(Option, texts)),
                inputs=(number_of(row, "ratio", where),),
            )


@dataclass(frozen=True, slots=True)
class _WordOrder:
    """Sentences of a treebank, and the same with two phrases swapped."""

    language: str

    def __call__(self, data: EvalData, limit: int | None) -> TaskData:
        task = f"wordorder_{self.language}"
        folder = data.find(task, "wordorder")
        files = sorted(folder.glob(f"*_{self.language}.csv"))
        if not files:
            raise UsageError(f"{task}: no *_{self.language}.csv in {folder}")
        return _task(files, self._items(files), limit)

    def _items(self, files: list[Path]) -> Iterator[Item]:
        for file in files:
            part = file.stem.removesuffix(f"_{self.language}")
            for number, (where, row) in enumerate(csv_rows(file)):
                texts = (text_of(row, field, where) for field in ("sen_str", "swapped_sen_str"))
                yield Item(part=part, name=str(number), options=tuple(map(Option, texts)))


CHOICE_TASKS: dict[str, Reader] = {
    "blimp": _Pairs("blimp", ("blimp_filtered", "blimp", "blimp_fast")),
    "blimp_supplement": _Pairs("blimp_supplement", ("supplement_filtered", "supplement_fast")),
    "ewok": _ewok,
    "entity_tracking": _entity_tracking,
    "wug_adj": _wug_adj,
    **{f"wordorder_{language}": _WordOrder(language) for language in _LANGUAGES},
}
"""Tasks that compare the log-probabilities of options."""

READING_TASKS = ("reading", "eye_tracking")
PERPLEXITY = "perplexity"
HARNESS_PREFIX = "lm_eval:"
TASKS = (*CHOICE_TASKS, *READING_TASKS, PERPLEXITY)
STUDY = ("blimp", "blimp_supplement", "ewok", "entity_tracking", "wug_adj", *READING_TASKS)
"""The zero-shot tasks of the reference study."""
