"""Evaluation sets from files of every kind that is read, and what their mistakes say."""

import gzip
import json
from pathlib import Path

import pytest

from cdgen.errors import UsageError
from cdgen.mixing.eval_sets import content, files, items


def test_a_folder_is_read_file_by_file_in_the_order_of_names(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("one\n\ntwo\n")
    (tmp_path / "a.jsonl").write_text(
        '{"sentence_good": "good", "sentence_bad": "bad", "UID": "x"}\n'
    )
    (tmp_path / "c.csv").write_text('id,sen_str,swapped_sen_str\n1,"a, b",c\n')
    (tmp_path / "d.txt.gz").write_bytes(gzip.compress(b"three\n"))
    (tmp_path / "README.md").write_text("not an item")

    assert list(items(tmp_path)) == ["good", "bad", "one", "two", "a, b", "c", "three"]


def test_lists_of_strings_are_items_each(tmp_path: Path) -> None:
    path = tmp_path / "e.jsonl"
    path.write_text(json.dumps({"sentences": ["a", "b"], "text": "c", "numops": 3}))

    assert list(items(path)) == ["a", "b", "c"]


def test_answers_are_items_only_where_they_are_named(tmp_path: Path) -> None:
    """By themselves they are words that stand everywhere."""
    path = tmp_path / "e.jsonl"
    path.write_text(json.dumps({"input_prefix": "Box 0 contains", "options": ["nothing", "tea"]}))

    assert list(items(path)) == ["Box 0 contains"]
    assert list(items(path, ["input_prefix", "options"])) == ["Box 0 contains", "nothing", "tea"]
    assert content(path, None) != content(path, ["input_prefix", "options"])


def test_other_fields_are_read_when_they_are_named(tmp_path: Path) -> None:
    path = tmp_path / "e.jsonl"
    path.write_text('{"satz": "eins"}\n')

    assert list(items(path, ["satz"])) == ["eins"]
    with pytest.raises(UsageError, match=r"e\.jsonl:1: none of the fields .* has satz: name them"):
        list(items(path))


@pytest.mark.parametrize("line", ["[1]", "{", "[" * 100_000])
def test_a_line_that_is_no_object_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "e.jsonl"
    path.write_text('{"text": "a"}\n' + line + "\n")

    with pytest.raises(UsageError, match=r"e\.jsonl:2: not a JSON object"):
        list(items(path))


def test_the_content_hash_covers_bytes_names_and_fields(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n")
    first = content(tmp_path, None)

    assert content(tmp_path, ["text"]) != first
    (tmp_path / "a.txt").rename(tmp_path / "b.txt")
    assert content(tmp_path, None) != first
    (tmp_path / "b.txt").rename(tmp_path / "a.txt")
    assert content(tmp_path, None) == first


def test_a_missing_set_or_one_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no file or folder with an evaluation set"):
        files(tmp_path / "missing")
    (tmp_path / "x.parquet").write_bytes(b"")
    with pytest.raises(UsageError, match="an evaluation set is"):
        files(tmp_path / "x.parquet")
