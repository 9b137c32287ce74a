"""Work in a thread changes nothing but the time."""

import threading
import time
from collections.abc import Iterator

import pytest

from cdgen.text.ahead import ahead


def test_the_items_and_their_order_are_the_same() -> None:
    assert list(ahead(range(1000))) == list(range(1000))
    assert list(ahead([])) == []


def test_an_error_is_raised_where_it_would_have_been() -> None:
    """After the items before it."""

    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise KeyError("three")

    reader = ahead(items())
    assert [next(reader), next(reader)] == [1, 2]
    with pytest.raises(KeyError, match="three"):
        next(reader)


def test_few_items_are_made_ahead() -> None:
    """Memory holds `depth` of them, one more being made."""
    made = []

    def items() -> Iterator[int]:
        for number in range(100):
            made.append(number)
            yield number

    reader = ahead(items(), depth=2)
    next(reader)
    time.sleep(0.3)
    assert len(made) <= 5
    reader.close()


def test_a_reader_that_stops_early_ends_the_thread_and_closes_the_generator() -> None:
    """No thread and no open file is left, also when one `ahead` reads from another."""
    closed = []

    def items() -> Iterator[int]:
        try:
            yield from range(10**6)
        finally:
            closed.append(True)

    before = threading.active_count()
    reader = ahead(ahead(items()))
    assert next(reader) == 0
    reader.close()

    assert closed == [True]
    assert threading.active_count() == before
