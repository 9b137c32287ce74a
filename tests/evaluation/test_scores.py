"""Scores against hand-made cases, least squares by the book, and draws against items repeated."""

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdgen.evaluation.scores import part_scores, task_score


def test_accuracy_is_the_mean_of_the_parts_means() -> None:
    items = {"part": ["a", "a", "a", "a", "b"], "value": [1.0, 0.0, 0.0, 0.0, 1.0]}
    assert task_score("blimp", items) == pytest.approx((0.25 + 1.0) / 2)
    assert part_scores("blimp", items) == {"a": 0.25, "b": 1.0}


def test_folders_of_parts_count_alike() -> None:
    items = {
        "part": ["regular/0_ops", "regular/1_ops", "regular/2_ops", "ambiref/0_ops"],
        "value": [1.0, 0.0, 0.0, 1.0],
    }
    assert task_score("entity_tracking", items) == pytest.approx((1 / 3 + 1.0) / 2)


def test_a_part_that_a_draw_misses_is_left_out() -> None:
    items = {"part": ["a", "b"], "value": [1.0, 0.0]}
    found = task_score("blimp", items, [[1, 1], [2, 0], [0, 2]])
    assert found.tolist() == [0.5, 1.0, 0.0]


def test_rho_is_that_of_ranks() -> None:
    items = {
        "value": [0.1, 0.2, 0.3, 0.4],
        "inputs": [[1.0], [3.0], [2.0], [9.0]],
        "part": ["x"] * 4,
    }
    assert task_score("wug_adj", items) == pytest.approx(
        1 - 6 * 2 / (4 * 15)
    )  # the textbook's formula
    ties = {"value": [1.0, 1.0, 2.0], "inputs": [[5.0], [6.0], [6.0]], "part": ["x"] * 3}
    assert task_score("wug_adj", ties) == pytest.approx(0.5)  # ranks 1.5 1.5 3 and 1 2.5 2.5


def test_perplexity_is_one_per_token() -> None:
    items = {
        "value": [10 * math.log(3), 5 * math.log(3)],
        "inputs": [[10.0, 40.0], [5.0, 20.0]],
        "part": ["eval"] * 2,
    }
    assert task_score("perplexity", items) == pytest.approx(3.0)
    assert task_score("perplexity", items, [[3, 1]])[0] == pytest.approx(3.0)


def reading_items(rng: np.random.Generator, n: int, times: int, weight: float) -> dict[str, Any]:
    """Times that depend on frequency and length, and by `weight` on surprisal."""
    covariates = rng.normal(size=(n, 4)) * [2.0, 3.0, 10.0, 3.0] + [10.0, 5.0, 20.0, 5.0]
    before, value = rng.gamma(2.0, 2.0, n), rng.gamma(2.0, 2.0, n)
    before[::7] = np.nan
    measured = [
        covariates[:, 0] * -3 + covariates[:, 1] * 2 + weight * value + rng.normal(size=n)
        for _ in range(times)
    ]
    return {
        "value": value,
        "inputs": np.column_stack([before, covariates, *measured]),
        "part": np.array(["reading"] * n),
    }


def r_squared(columns: list[np.ndarray], y: np.ndarray) -> float:
    x = np.column_stack([np.ones(len(y)), *columns])
    left = y - x @ np.linalg.lstsq(x, y, rcond=None)[0]
    return float(1 - (left**2).sum() / ((y - y.mean()) ** 2).sum())


def by_the_book(columns: list[np.ndarray], surprisal: np.ndarray, y: np.ndarray) -> float:
    products = [a * b for i, a in enumerate(columns) for b in columns[i + 1 :]]
    base = r_squared([*columns, *products], y)
    return (r_squared([*columns, *products, surprisal], y) - base) / (1 - base)


def test_reading_is_the_gain_of_r_squared() -> None:
    items = reading_items(np.random.default_rng(5), 200, 1, 0.3)
    x, there = items["inputs"], ~np.isnan(items["inputs"][:, 0])
    columns = [x[there, i] for i in range(5)]
    expected = by_the_book(columns, items["value"][there], x[there, 5])
    assert task_score("reading", items) == pytest.approx(expected, rel=1e-9)
    assert expected > 0.1


def test_eye_tracking_is_the_mean_of_four_times() -> None:
    items = reading_items(np.random.default_rng(6), 200, 4, 0.2)
    x = items["inputs"]
    gains = [
        by_the_book([x[:, 1], x[:, 2], x[:, 3]], items["value"], x[:, 5 + i]) for i in range(4)
    ]
    assert task_score("eye_tracking", items) == pytest.approx(np.mean(gains), rel=1e-9)


@pytest.mark.parametrize("task", ["blimp", "wug_adj", "perplexity", "reading", "eye_tracking"])
@given(seed=st.integers(0, 1000))
def test_weights_are_repeated_items(task: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    items = reading_items(rng, 60, 4, 0.3)
    items["part"] = np.array([f"{i % 2}/{i % 6}" for i in range(60)])
    if task == "blimp":
        items["value"] = (items["value"] > 4).astype(float)
    if task == "wug_adj":
        items["value"] = np.round(items["value"])  # ties
        items["inputs"][:, 0] = np.round(np.nan_to_num(items["inputs"][:, 0]))
    if task == "perplexity":
        items["inputs"][:, 0] = 3.0
    weights = rng.integers(0, 4, (3, 60))
    drawn = task_score(task, items, weights)
    for b in range(3):
        chosen = np.repeat(np.arange(60), weights[b])
        again = {name: column[chosen] for name, column in items.items()}
        assert drawn[b] == pytest.approx(task_score(task, again), rel=1e-6)


def test_a_table_and_columns_say_the_same() -> None:
    columns = {"part": ["a", "b"], "value": [1.0, 0.0], "inputs": [[], []]}
    assert task_score("blimp", pa.table(columns)) == task_score("blimp", columns)


def test_weights_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\[draws, 2 items\]"):
        task_score("blimp", {"part": ["a", "b"], "value": [1.0, 0.0]}, [[1, 1, 1]])
