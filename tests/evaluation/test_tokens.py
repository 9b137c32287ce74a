"""Which tokens of a text count."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from cdgen.errors import UsageError
from cdgen.evaluation.items import Option
from cdgen.evaluation.tokens import TextEncoder

TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="<"), min_size=1, max_size=40)


@pytest.mark.parametrize("bos", [True, False])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(found=st.lists(st.tuples(TEXTS, st.integers(0, 40)), min_size=1, max_size=4))
def test_the_quick_way_is_the_library_s(
    found: list[tuple[str, int]],
    bos: bool,
    make_checkpoint: Callable[..., Path],
    cache: dict[bool, TextEncoder],
) -> None:
    encoder = (
        cache.setdefault(bos, TextEncoder.load(make_checkpoint(bos=bos)))
        if bos not in cache
        else cache[bos]
    )
    assert encoder.words is not None
    options = [Option(text, min(start, len(text))) for text, start in found]
    by_library = TextEncoder(encoder.tokenizer, None).sequences(options)
    for quick, exact in zip(encoder.sequences(options), by_library, strict=True):
        assert quick.ids[quick.start :].tolist() == exact.ids[exact.start :].tolist()
        assert quick.ids.tolist() == exact.ids.tolist()


@pytest.fixture(scope="module")
def cache() -> dict[bool, TextEncoder]:
    return {}


def test_a_completion_counts_from_its_first_token(checkpoint: Path) -> None:
    encoder = TextEncoder.load(checkpoint)
    (one,) = encoder.sequences(
        [Option("The ball is in the box. It is full.", len("The ball is in the box."))]
    )
    assert encoder.tokenizer.decode(one.ids[one.start :]) == " It is full."
    (whole,) = encoder.sequences([Option("The ball")])
    assert whole.start == 1 and whole.ids[0] == encoder.tokenizer.bos_token_id


def test_what_a_tokenizer_appends_does_not_count(make_checkpoint: Callable[..., Path]) -> None:
    folder = make_checkpoint()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    from tokenizers.processors import TemplateProcessing

    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    tokenizer.save_pretrained(folder)
    (one,) = TextEncoder.load(folder).sequences([Option("The ball")])
    assert one.ids[0] == 0 and 1 not in one.ids


def test_a_tokenizer_without_offsets_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no tokenizer that transformers loads"):
        TextEncoder.load(tmp_path)
