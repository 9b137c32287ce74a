"""Rows of a Hugging Face dataset, on the Hub or in a local folder, streamed in their order.

A dataset on the Hub is read at one commit. No code of a dataset is ever run: `datasets` 5 knows no loading scripts.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cdgen.errors import UsageError
from cdgen.recipes.schema import Source

SAVED = ("dataset_info.json", "dataset_dict.json")
"""Files that mark a folder of Dataset.save_to_disk."""


def dataset_rows(
    source: Source, folder: Path | None
) -> Iterator[tuple[str, Mapping[str, Any], str]]:
    """Yield (where, row, the field that holds the text) of each row of a source's split.

    Args:
        source: names the dataset, or how a local folder is read.
        folder: a folder of data files or of save_to_disk; None for the Hub.

    Raises:
        UsageError: no such dataset, commit, configuration, split or column; no connection; damaged data.
    """
    field = source.hf.field if source.hf else source.field or "text"
    split = source.hf.split if source.hf else source.split or "train"
    name = f"{source.hf.dataset}@{source.hf.revision[:8]}" if source.hf else str(folder)
    number = 0
    try:
        dataset = (
            _open_saved(folder, split)
            if folder and _is_saved(folder)
            else _open(source, folder, split)
        )
        _check_column(dataset.column_names, field, f"{name}: split {split}")
        for row in dataset.select_columns([field]):
            number += 1
            yield f"{name}: {split} row {number}", row, field
    except UsageError:
        raise
    except Exception as error:  # noqa: BLE001 - a foreign dataset and a network can raise anything
        at = f" after row {number}" if number else ""
        raise UsageError(f"{name}: cannot read split {split}{at}: {_reason(error)}") from None


def _check_column(columns: list[str] | None, field: str, where: str) -> None:
    """A stream of JSON may not know its columns before it is read."""
    if columns is not None and field not in columns:
        names = ", ".join(map(repr, columns))[:200]
        raise UsageError(f"{where}: no column {field!r}; it has {names}; name one with `field`")


def _is_saved(folder: Path) -> bool:
    return any((folder / name).is_file() for name in SAVED)


def _open_saved(folder: Path, split: str) -> Any:
    import datasets

    saved = datasets.load_from_disk(str(folder))
    if not isinstance(saved, datasets.DatasetDict):
        if str(saved.split or "train") != split:
            raise UsageError(f"{folder}: holds the split {saved.split}, not {split}; set split")
        return saved
    if split not in saved:
        raise UsageError(f"{folder}: no split {split}; it has {', '.join(saved)}")
    return saved[split]


def _open(source: Source, folder: Path | None, split: str) -> Any:
    import datasets

    hub = source.hf
    return datasets.load_dataset(
        hub.dataset if hub else str(folder),
        name=hub.config if hub else None,
        revision=hub.revision if hub else None,
        split=split,
        streaming=True,
    )


def _reason(error: Exception) -> str:
    """The first line of what a library says, with the next step where the network is the cause."""
    said = " ".join(str(error).split("\n")[0].split())[:240] or type(error).__name__
    offline = (
        "offline" in said.lower()
        or "connection" in type(error).__name__.lower()
        or "connect" in said.lower()
    )
    return (
        f"{said}; connect to the Hub, or give a local copy with path and format: hf"
        if offline
        else said
    )
