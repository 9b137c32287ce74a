"""The compiled gather gives what slices of the buffers give, whatever the parts."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdgen.streaming import joined as module
from cdgen.streaming.joined import joined

BUFFERS = [np.random.default_rng(n).bytes(size) for n, size in enumerate((1, 40, 300, 1000))]
PARTS = st.lists(
    st.sampled_from(range(len(BUFFERS))).flatmap(
        lambda which: st.tuples(
            st.just(which), st.integers(0, len(BUFFERS[which])), st.integers(0, len(BUFFERS[which]))
        )
    ),
    max_size=40,
)


@pytest.mark.parametrize("reach", [1 << 30, 64])
@given(parts=PARTS)
def test_parts_are_joined_as_slices_are(reach: int, parts: list[tuple[int, int, int]]) -> None:
    """Also of buffers that are longer than a view's offset can say, and parts that a view holds itself."""
    spans = [(which, min(a, b), min(max(a, b), min(a, b) + reach - 1)) for which, a, b in parts]
    which, begin, end = np.array(spans, np.int64).reshape(-1, 3).T
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_REACH", reach)
        found = joined([pa.py_buffer(data) for data in BUFFERS], which, begin, end - begin)

    assert found.tobytes() == b"".join(BUFFERS[n][a:b] for n, a, b in spans)


def test_a_part_outside_its_buffer_is_a_bug() -> None:
    with pytest.raises(AssertionError, match="leaves its buffer"):
        joined([pa.py_buffer(b"abc")], np.array([0]), np.array([2]), np.array([2]))
