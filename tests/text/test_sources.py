"""Documents from files: every one, once, whatever the chunks they are read in."""

from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from cdgen.errors import UsageError
from cdgen.text import sources
from cdgen.text.sources import blank_line_documents


def written(folder: Path, content: bytes, name: str = "t.txt") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def test_documents_are_the_groups_of_lines_between_blank_lines(tmp_path: Path) -> None:
    text = "one\ntwo\n\n\n \t\nthree\r\nfour\r\n\r\nfive"

    assert list(blank_line_documents(written(tmp_path, text.encode()))) == [
        "one\ntwo",
        "three\nfour",
        "five",
    ]


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    assert list(blank_line_documents(written(tmp_path, b"\xef\xbb\xbfa\n"))) == ["a"]


@pytest.mark.parametrize("content", [b"", b"\n\n", b" \n\t\n"])
def test_nothing_is_no_document(tmp_path: Path, content: bytes) -> None:
    assert list(blank_line_documents(written(tmp_path, content))) == []


def test_several_zstd_frames_are_one_file(tmp_path: Path) -> None:
    """As `zstd a b > c` writes them."""
    frames = b"".join(zstandard.compress(part) for part in (b"a\n\nb", b"c\n\nd\n"))

    assert list(blank_line_documents(written(tmp_path, frames, "t.txt.zst"))) == ["a", "bc", "d"]


LINES = st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\n\r\ufeff"), max_size=8))


@given(LINES, st.integers(1, 7))
@settings(max_examples=200, deadline=None)
def test_documents_do_not_depend_on_how_the_file_is_read(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], read_bytes: int
) -> None:
    """A character or a line end cut by the reader is put together again."""
    groups = [""]
    for line in lines:
        groups = [*groups[:-1], groups[-1] + line + "\n"] if line.strip() else [*groups, ""]
    path = written(tmp_path_factory.mktemp("lines"), "\n".join(lines).encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "READ_BYTES", read_bytes)
        found = list(blank_line_documents(path))

    assert found == [group.rstrip("\n") for group in groups if group]


def test_bytes_that_are_not_utf_8_are_named_with_their_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"t.txt:3: not UTF-8 .*convert the file"):
        list(blank_line_documents(written(tmp_path, b"a\nb\nc\xff\n")))


def test_a_file_that_is_not_zstd_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read: damaged or cut: ZSTD"):
        list(blank_line_documents(written(tmp_path, b"plain text", "t.txt.zst")))


def test_a_cut_zstd_file_is_not_taken_for_a_whole_one(tmp_path: Path) -> None:
    """Half of the text must not pass for all of it."""
    whole = zstandard.compress(b"a tale\n\n" * 10_000)

    with pytest.raises(UsageError, match="cut"):
        list(blank_line_documents(written(tmp_path, whole[: len(whole) // 2], "t.txt.zst")))
