import io
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdgen.shards import npy
from cdgen.shards.sample import (
    FEATURES,
    META_TYPES,
    Meta,
    Sample,
    check_key,
    document_id,
    id_dtype,
    key_fits,
    real_key,
    repeat_key,
    short_float,
    split_repeat,
    synthetic_key,
)
from shards.corpus_maker import document_of, real_sample, synthetic_sample

FIELDS = [
    "source",
    "origin",
    "license",
    "document",
    "start",
    "end",
    "split",
    "num_tokens",
    "prefix_tokens",
    "completion",
    "part",
    "truncated",
    "bos_inserted",
    "expert",
    "amateur",
    "decode",
    "rng_key",
    "mean_logp_expert",
    "mean_logp_amateur",
    "mean_head_size",
    "head_of_one_share",
]

float32 = st.floats(width=32, allow_nan=False, allow_infinity=False)
words = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
strategies = {
    str: words,
    int: st.integers(-(2**53), 2**53),
    bool: st.booleans(),
    float: st.floats(-3e38, 3e38),
}
metas = st.fixed_dictionaries({name: strategies[kind] for name, kind in META_TYPES.items()})


def test_the_json_has_the_fields_of_the_contract_in_their_order() -> None:
    assert list(META_TYPES) == FIELDS
    assert list(json.loads(Meta().to_json())) == FIELDS


def test_golden_json() -> None:
    assert synthetic_sample(1, 2, 1).meta.to_json().decode() == (
        '{"source":"synthetic","origin":"tales","license":"Apache-2.0",'
        '"document":"6b86b273ff34fce19d6b804e-0","start":0,"end":12,"split":"train",'
        '"num_tokens":12,"prefix_tokens":0,"completion":2,"part":1,"truncated":true,'
        '"bos_inserted":true,"expert":"c7d253870ab8de38","amateur":"8dd9ed10798ded82",'
        '"decode":"713a1417c769dc75","rng_key":"000000000000000000000000000003ea",'
        '"mean_logp_expert":-1.9166666,"mean_logp_amateur":-2.0,"mean_head_size":17.0,'
        '"head_of_one_share":0.33333334}'
    )


@given(metas)
def test_meta_survives_json_and_every_value_keeps_its_type(values: dict[str, object]) -> None:
    meta = Meta(**values)  # type: ignore[arg-type]
    data = meta.to_json()
    assert Meta.from_json(data) == meta
    assert {name: type(value) for name, value in json.loads(data).items()} == META_TYPES


@given(float32)
def test_a_float_is_the_shortest_decimal_of_its_float32(value: float) -> None:
    short = short_float("x", value)
    assert np.float32(short) == np.float32(value)
    assert repr(short) in {str(float(str(np.float32(value)))), "0.0"}
    assert any(mark in repr(short) for mark in ".e")
    assert math.copysign(1, short) == (math.copysign(1, value) if value else 1)


def test_equal_float32_give_equal_bytes_wherever_they_were_computed() -> None:
    third = np.float32(1) / np.float32(3)
    wanted = Meta(mean_head_size=1 / 3).to_json()
    assert Meta(mean_head_size=float(third)).to_json() == wanted
    assert Meta(mean_head_size=third).to_json() == wanted  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "wrong",
    [
        {"start": True},
        {"start": 1.0},
        {"start": 2**53 + 1},
        {"start": np.int64(1)},
        {"origin": None},
        {"truncated": 1},
        {"mean_head_size": math.nan},
        {"mean_head_size": math.inf},
        {"mean_head_size": 1e39},
        {"mean_head_size": 10**400},
        {"mean_head_size": "1"},
        {"mean_head_size": True},
    ],
)
def test_a_wrong_value_is_refused_by_name(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Meta(**wrong)  # type: ignore[arg-type]


GOOD = Meta().to_json()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (GOOD.replace(b'"start":0', b'"start":0.0'), "start must be int"),
        (GOOD.replace(b'"mean_head_size":0.0', b'"mean_head_size":0'), "not written as"),
        (GOOD.replace(b'"start":0,', b""), "start"),
        (GOOD.replace(b'"start":0,"end":0', b'"end":0,"start":0'), "order"),
        (GOOD[:-1] + b',"more":1}', "more"),
        (GOOD + b" ", "not written as"),
        (b"[1]", "not an object"),
        (b"[" * 100_000, "deep"),
        (b'{"a":' * 3, "Expecting"),
        (b"\xff", "decode"),
        (GOOD.replace(b'"origin":""', b'"origin":"\\ud800"'), "surrogates"),
        (GOOD.replace(b'"start":0', b'"start":' + b"9" * 5000), "digits"),
    ],
)
def test_other_json_is_refused(data: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Meta.from_json(data)


def test_keys() -> None:
    document = document_of(5)
    assert document_id("ab" * 32, 3) == "ab" * 12 + "-3"
    assert real_key(document, 7) == f"r{document}-0007"
    assert synthetic_key(document, 1, 2, 3) == f"s{document}-0001-002-03"
    assert repeat_key("k", 1) == "k"
    assert split_repeat(repeat_key(real_key(document, 0), 12)) == (real_key(document, 0), 12)
    with pytest.raises(ValueError, match="counted from 1"):
        repeat_key("k", 0)
    with pytest.raises(ValueError, match="24 hex digits"):
        document_id("short", 0)


def test_a_key_fits_its_provenance() -> None:
    for sample in (real_sample(1), synthetic_sample(1, 2, 1)):
        assert key_fits(sample.key, sample.meta)
        assert not key_fits(sample.key + "0", sample.meta)
    assert not key_fits(real_sample(2).key, real_sample(1).meta)
    assert not key_fits(synthetic_sample(1, 2, 1).key, synthetic_sample(1, 1, 1).meta)


@given(st.integers(0, 10**6), st.integers(0, 10**5), st.integers(0, 10**4), st.integers(0, 10**3))
def test_keys_are_always_allowed(occurrence: int, chunk: int, completion: int, part: int) -> None:
    document = document_id("0f" * 12, occurrence)
    key = synthetic_key(document, chunk, completion, part)
    check_key(repeat_key(key, 999))
    meta = Meta(source="synthetic", document=document, completion=completion, part=part)
    assert key_fits(key, meta)


@pytest.mark.parametrize("key", ["", "a.b", "A", "a/b", "../a", "é", "-a", "a" * 95, "a\n", "a b"])
def test_other_keys_are_refused(key: str) -> None:
    with pytest.raises(ValueError, match="key must have"):
        check_key(key)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"text": ""}, "needs text"),
        ({"ids": np.arange(8, dtype=np.int64)}, "int64"),
        ({"ids": np.empty(0, np.uint16)}, "not empty"),
        ({"ids": np.zeros((2, 4), np.uint16)}, "one dimension"),
        ({"ids": np.arange(8, dtype=">u2")}, ">u2"),
        ({"ids": np.arange(3, dtype=np.uint16)}, "num_tokens is 8, but there are 3 ids"),
        ({"key": "a.b"}, "key must have"),
    ],
)
def test_a_sample_whose_parts_do_not_fit_is_refused(change: dict[str, object], said: str) -> None:
    good = {
        "key": "k",
        "text": "t",
        "ids": np.arange(8, dtype=np.uint16),
        "meta": Meta(num_tokens=8),
    }
    Sample(**good)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=said):
        Sample(**(good | change))  # type: ignore[arg-type]


def test_samples_compare_by_value() -> None:
    assert real_sample(1) == real_sample(1)
    assert real_sample(1) != real_sample(2)
    assert real_sample(1) != "something else"


@pytest.mark.parametrize(
    ("vocab_size", "name"), [(1, "uint16"), (65536, "uint16"), (65537, "uint32"), (2**32, "uint32")]
)
def test_the_smallest_dtype_that_holds_a_vocabulary(vocab_size: int, name: str) -> None:
    assert id_dtype(vocab_size).name == name


@pytest.mark.parametrize("vocab_size", [0, -1, 2**32 + 1])
def test_impossible_vocabularies(vocab_size: int) -> None:
    with pytest.raises(ValueError, match="vocabulary"):
        id_dtype(vocab_size)


@given(st.lists(st.integers(0, 65535), min_size=1, max_size=300), st.sampled_from(npy.DTYPES))
def test_npy_is_what_numpy_writes_and_reads(ids: list[int], dtype: npy.IdDtype) -> None:
    array = np.array(ids, dtype)
    saved = io.BytesIO()
    np.save(saved, array)
    content = npy.dump(array)
    assert content == saved.getvalue()
    assert len(content) == 128 + array.nbytes
    assert np.array_equal(np.load(io.BytesIO(content), allow_pickle=False), array)
    assert np.array_equal(npy.load(content), array)
    assert npy.load(content).dtype == dtype


@given(st.binary(max_size=200), st.integers(0, 127))
def test_other_npy_is_refused(junk: bytes, keep: int) -> None:
    content = npy.dump(np.arange(8, dtype=np.uint16))
    with pytest.raises(ValueError, match=r"\.npy member"):
        npy.load(content[:keep] + b"?" + junk)


def test_the_pinned_features_follow_from_the_fields() -> None:
    types = {str: "string", int: "int64", bool: "bool", float: "float64"}
    for name in ("uint16", "uint32"):
        columns = {column["name"]: column for column in FEATURES[name]}
        assert list(columns) == ["txt", "json", "npy", "__key__", "__url__"]
        assert columns["npy"]["list"] == name
        wanted = [{"name": field, "dtype": types[kind]} for field, kind in META_TYPES.items()]
        assert columns["json"]["struct"] == wanted
