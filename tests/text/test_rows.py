"""Documents from rows: JSON lines, parquet, datasets, other corpora; a wrong row is one line that names it."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from datasets import Dataset, DatasetDict
from fuzz import cases
from hypothesis import given
from hypothesis import strategies as st

from cdgen.errors import UsageError
from cdgen.recipes.schema import Source
from cdgen.text.sources import located_documents

TEXTS = ["Once.", "Été, “quoted”.\nTwo lines.", "  spaces  ", "\u2028", "last"]


def one_line(error: UsageError) -> None:
    """A message has no second line."""
    assert "\n" not in str(error)


def documents(path: Path, **fields: Any) -> list[str]:
    source = Source(name="s", license="MIT", path=path, **fields)
    return [text for _, text in located_documents(source, path)]


def refused(path: Path, **fields: Any) -> str:
    with pytest.raises(UsageError) as caught:
        documents(path, **fields)
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(f"{path.parent}/")


# ---- jsonl ----


@pytest.mark.parametrize("ending", ["jsonl", "ndjson", "jsonl.gz", "jsonl.zst"])
def test_json_lines_are_read(tmp_path: Path, ending: str) -> None:
    """Blank lines are no rows; escapes and raw characters are the same text."""
    rows = [
        json.dumps({"id": n, "text": text}, ensure_ascii=n % 2 == 0) for n, text in enumerate(TEXTS)
    ]
    data = ("\n".join([*rows[:2], "", *rows[2:]]) + "\r\n").encode()
    if ending.endswith("gz"):
        data = gzip.compress(data)
    if ending.endswith("zst"):
        data = zstandard.compress(data)
    path = tmp_path / f"t.{ending}"
    path.write_bytes(data)

    assert documents(path) == TEXTS


def test_another_field_can_hold_the_text(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"body": "a", "text": 1}\n')

    assert documents(tmp_path / "t.jsonl", field="body") == ["a"]


ROWS = [
    ("[1]", "t.jsonl:2: a JSON object is needed on each line, found a list"),
    ("null", "t.jsonl:2: a JSON object is needed on each line, found null"),
    ("12", "t.jsonl:2: a JSON object is needed on each line, found a number"),
    ('"text"', "t.jsonl:2: a JSON object is needed on each line, found something else"),
    ('{"text": 1}', "t.jsonl:2: field 'text' must be text, found a number; "),
    ('{"text": null}', "t.jsonl:2: field 'text' must be text, found null; "),
    ('{"text": true}', "t.jsonl:2: field 'text' must be text, found true or false; "),
    ('{"text": ["a"]}', "t.jsonl:2: field 'text' must be text, found a list; "),
    ('{"txt": "a", "id": 1}', "t.jsonl:2: no field 'text'; it has 'txt', 'id'; name the field"),
    ("{}", "t.jsonl:2: no field 'text'; it has none"),
    ('{"text": "a"', "t.jsonl:2: not valid JSON: "),
    ('{"text": "a"} x', "t.jsonl:2: not valid JSON: Extra data"),
    ('{"text": "\\ud800"}', "t.jsonl:2: field 'text' holds half of a surrogate pair"),
    ("[" * 100_000, "t.jsonl:2: not valid JSON: nested too deeply"),
]


@pytest.mark.parametrize(("line", "expected"), ROWS, ids=[row[0][:20] for row in ROWS])
def test_a_wrong_line_is_named(tmp_path: Path, line: str, expected: str) -> None:
    """file:line, what was found, what is needed."""
    path = tmp_path / "t.jsonl"
    path.write_text('{"text": "first"}\n' + line + "\n")

    assert refused(path).startswith(expected)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["text", "id", ""]), inner)
    ),
)


@given(st.lists(JSON, max_size=4))
@cases(1000)
def test_any_json_is_documents_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Any]
) -> None:
    """Of whatever types, lone surrogates included; texts come out as they went in."""
    path = tmp_path_factory.mktemp("json") / "t.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    try:
        found = documents(path)
    except UsageError as error:
        one_line(error)
    else:
        assert found == [row["text"] for row in rows]


# ---- parquet ----


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())]
)
def test_a_column_of_parquet_is_read(tmp_path: Path, kind: pa.DataType) -> None:
    """In row order, over several row groups."""
    table = pa.table({"id": pa.array(range(5)), "body": pa.array(TEXTS).cast(kind)})
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=2)

    assert documents(tmp_path / "t.parquet", field="body") == TEXTS


def test_a_missing_column_is_one_line(tmp_path: Path) -> None:
    pq.write_table(pa.table({"body": ["a"], "id": [1]}), tmp_path / "t.parquet")

    assert refused(tmp_path / "t.parquet").startswith(
        "t.parquet: no column 'text', or more than one; it has 'body', 'id'"
    )
    assert "column 'id' must be text, found int64" in refused(tmp_path / "t.parquet", field="id")


def test_a_row_without_text_is_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a", "b", None]}), tmp_path / "t.parquet")

    assert refused(tmp_path / "t.parquet").startswith(
        "t.parquet: row 3: field 'text' must be text, found null"
    )


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 0.99])
def test_a_cut_parquet_file_is_one_line(tmp_path: Path, share: float) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"text": [f"tale {n}" for n in range(5000)]}), path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])

    assert "cannot be read as parquet" in refused(path)


@given(st.data())
@cases(400)
def test_a_damaged_parquet_file_is_documents_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Flipped bytes anywhere: never another exception, never text that is no Unicode."""
    path = tmp_path_factory.mktemp("parquet") / "t.parquet"
    pq.write_table(pa.table({"text": [f"tale {n} é" for n in range(50)]}), path)
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(raw)
    try:
        for text in documents(path):
            text.encode()
    except UsageError as error:
        one_line(error)


# ---- datasets ----


def test_a_folder_of_data_files_is_read_by_datasets(tmp_path: Path) -> None:
    """Every file of the split, in the order of their names."""
    for number in range(2):
        pq.write_table(
            pa.table({"id": [1, 2], "body": [f"{number} a", f"{number} b"]}),
            tmp_path / f"train-{number}.parquet",
        )
    pq.write_table(pa.table({"id": [1], "body": ["held out"]}), tmp_path / "test.parquet")

    assert documents(tmp_path, format="hf", field="body") == ["0 a", "0 b", "1 a", "1 b"]
    assert documents(tmp_path, format="hf", field="body", split="test") == ["held out"]


def test_what_save_to_disk_wrote_is_read(tmp_path: Path) -> None:
    """One dataset, or one for each split."""
    Dataset.from_dict({"text": TEXTS}).save_to_disk(tmp_path / "one")
    DatasetDict(
        {"train": Dataset.from_dict({"text": TEXTS}), "dev": Dataset.from_dict({"text": ["x"]})}
    ).save_to_disk(tmp_path / "many")

    assert documents(tmp_path / "one", format="hf") == TEXTS
    assert documents(tmp_path / "many", format="hf", split="dev") == ["x"]
    assert "no split test; it has train, dev" in refused(
        tmp_path / "many", format="hf", split="test"
    )


def test_a_wrong_split_or_column_of_a_dataset_is_one_line(tmp_path: Path) -> None:
    pq.write_table(pa.table({"body": ["a"]}), tmp_path / "train.parquet")

    assert "no column 'text'; it has 'body'" in refused(tmp_path, format="hf")
    assert "cannot read split test" in refused(tmp_path, format="hf", field="body", split="test")


def test_a_folder_without_data_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("nothing")

    assert "cannot read split train" in refused(tmp_path, format="hf")


def test_a_loading_script_is_never_run(tmp_path: Path) -> None:
    """A folder's code is not data."""
    folder = tmp_path / "scripted"
    folder.mkdir()
    (folder / "scripted.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")

    refused(folder, format="hf")

    assert not (tmp_path / "ran").exists()
