"""Documents from text files: every one, once, whatever the chunks they are read in; anything else is one line."""

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard
from fuzz import cases
from hypothesis import given, settings
from hypothesis import strategies as st

from cdgen.errors import UsageError
from cdgen.recipes.schema import Source
from cdgen.text import lines
from cdgen.text.sources import located_documents, read


def written(folder: Path, content: bytes, name: str = "t.txt") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def source(path: Path, **fields: Any) -> Source:
    return Source(name="s", license="MIT", path=path, **fields)


def one_line(error: UsageError) -> None:
    """A message has no second line."""
    assert "\n" not in str(error)


def documents(path: Path, **fields: Any) -> list[str]:
    return [text for _, text in located_documents(source(path, **fields), path)]


def test_documents_are_the_groups_of_lines_between_blank_lines(tmp_path: Path) -> None:
    text = "one\ntwo\n\n\n \t\nthree\r\nfour\r\n\r\nfive"

    assert documents(written(tmp_path, text.encode())) == ["one\ntwo", "three\nfour", "five"]


def test_documents_are_named_by_file_and_line(tmp_path: Path) -> None:
    path = written(tmp_path, b"a\nb\n\n\nc\n")

    assert [where for where, _ in located_documents(source(path), path)] == [
        f"{path}:1",
        f"{path}:5",
    ]


def test_a_file_can_be_one_document(tmp_path: Path) -> None:
    assert documents(written(tmp_path, b"a\n\nb\n\n"), document="file") == ["a\n\nb"]


def test_documents_can_be_separated_by_a_line(tmp_path: Path) -> None:
    """The whole line: the same characters inside a line separate nothing."""
    path = written(tmp_path, b"a\n\nb\n<|end|>\n<|end|>\nc <|end|>\n<|end|>\r\nd")

    assert documents(path, document="separator", separator="<|end|>") == [
        "a\n\nb",
        "c <|end|>",
        "d",
    ]


def test_a_separator_that_is_nowhere_is_one_line(tmp_path: Path) -> None:
    """The whole file would pass for one document."""
    with pytest.raises(UsageError, match=r"t.txt: no line is '--'; check `separator`"):
        documents(written(tmp_path, b"a\n---\nb"), document="separator", separator="--")


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    assert documents(written(tmp_path, b"\xef\xbb\xbfa\n")) == ["a"]


@pytest.mark.parametrize("content", [b"", b"\n\n", b" \n\t\n"])
def test_a_source_without_text_is_one_line(tmp_path: Path, content: bytes) -> None:
    """A build must not end quietly without a source that its recipe names."""
    path = written(tmp_path, content)

    with pytest.raises(UsageError, match=r"t\.txt: no text; take the source 's' out"):
        list(read([source(path)], {"s": path}))


def test_one_word_is_a_document(tmp_path: Path) -> None:
    assert documents(written(tmp_path, b"word")) == ["word"]


COMPRESS: dict[str, Callable[[bytes], bytes]] = {"zst": zstandard.compress, "gz": gzip.compress}


@pytest.mark.parametrize("ending", COMPRESS)
def test_several_compressed_members_are_one_file(tmp_path: Path, ending: str) -> None:
    """As `zstd a b > c` and `cat a.gz b.gz > c.gz` write them."""
    members = b"".join(COMPRESS[ending](part) for part in (b"a\n\nb", b"c\n\nd\n"))

    assert documents(written(tmp_path, members, f"t.txt.{ending}")) == ["a", "bc", "d"]


@pytest.mark.parametrize("ending", COMPRESS)
def test_a_file_that_is_not_compressed_is_one_line(tmp_path: Path, ending: str) -> None:
    with pytest.raises(UsageError, match="cannot be read: damaged or cut: "):
        documents(written(tmp_path, b"plain text", f"t.txt.{ending}"))


@pytest.mark.parametrize("ending", COMPRESS)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_cut_file_is_not_taken_for_a_whole_one(tmp_path: Path, ending: str, share: float) -> None:
    """Half of the text must not pass for all of it."""
    whole = COMPRESS[ending](b"".join(b"tale %d\n\n" % n for n in range(10_000)))

    with pytest.raises(UsageError, match="cut"):
        documents(written(tmp_path, whole[: int(len(whole) * share)], f"t.txt.{ending}"))


LINES = st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\n\r\ufeff"), max_size=8))


@given(LINES, st.integers(1, 7))
@settings(max_examples=200, deadline=None)
def test_documents_do_not_depend_on_how_the_file_is_read(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], read_bytes: int
) -> None:
    """A character or a line end cut by the reader is put together again."""
    groups = [""]
    for line in texts:
        groups = [*groups[:-1], groups[-1] + line + "\n"] if line.strip() else [*groups, ""]
    path = written(tmp_path_factory.mktemp("lines"), "\n".join(texts).encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "READ_BYTES", read_bytes)
        found = documents(path)

    assert found == [group.rstrip("\n") for group in groups if group]


@pytest.mark.parametrize("read_bytes", [1, 2, 1 << 20])
def test_bytes_that_are_not_utf_8_are_named_with_their_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read_bytes: int
) -> None:
    monkeypatch.setattr(lines, "READ_BYTES", read_bytes)

    with pytest.raises(UsageError, match=r"t.txt:3: not UTF-8 .*convert the file"):
        documents(written(tmp_path, b"a\nb\nc\xff\n"))


@pytest.mark.parametrize("content", [b"x" * 5000, b"line\n" * 1000])
@pytest.mark.parametrize("ending", ["txt", "jsonl"])
def test_a_document_without_end_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, ending: str
) -> None:
    """Memory does not grow with the file: what has no end is refused at the limit, wherever the reader stands."""
    monkeypatch.setattr(lines, "READ_BYTES", 64)
    for module in ("lines", "sources"):
        monkeypatch.setattr(f"cdgen.text.{module}.MAX_DOCUMENT_CHARACTERS", 2048)
    path = written(tmp_path, content, f"t.{ending}")

    with pytest.raises(UsageError, match=r":1: (a document of more than|not valid JSON)"):
        documents(path)


ANY_BYTES = st.binary(max_size=300) | st.lists(
    st.sampled_from(
        [b"\n", b"\r", b" ", b"text", b"\xff", b"\xc3", b"\xef\xbb\xbf", b'{"text":', b'"a"}', b"[", b"--", b"null"]
    ),
    max_size=20,
).map(b"".join)  # fmt: skip


@given(
    ANY_BYTES,
    st.sampled_from(["t.txt", "t.txt.zst", "t.txt.gz", "t.jsonl", "t.jsonl.gz", "t.parquet"]),
    st.booleans(),
)
@cases(2000)
def test_any_bytes_are_documents_or_one_line(
    tmp_path: Path, content: bytes, name: str, whole: bool
) -> None:
    """Of each format: never another exception, and never text that UTF-8 cannot hold."""
    for ending, compress in COMPRESS.items():
        if whole and name.endswith(ending):
            content = compress(content)
    path = written(tmp_path, content, name)
    for fields in [{}, {"document": "file"}, {"document": "separator", "separator": "--"}]:
        if fields and not name.startswith("t.txt"):
            continue
        try:
            for text in documents(path, **fields):
                text.encode()
        except UsageError as error:
            one_line(error)


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"nowhere.txt: cannot be read: No such file.*check its path"
    ):
        documents(tmp_path / "nowhere.txt")
