"""The score of a task, as a pure function of its items and of item weights.

With weights (counts of a bootstrap, one row per draw) every function is one of whole arrays, and gives one score per
draw. Without, it gives one number.

Shapes: B draws, N items, P parts, K columns of a regression.
"""

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Floats = npt.NDArray[np.float64]
Items: TypeAlias = Any
"""A table of pyarrow, or columns by name."""


def task_score(task: str, items: Items, weight_BN: npt.ArrayLike | None = None) -> Any:
    """A task's score: a float, or float64 `[B]` where weights are given.

    Args:
        task: its name.
        items: its rows of items.parquet (columns `part`, `value`, and `inputs` where the task has any).
        weight_BN: how often each item counts, `[B, N]`.

    Accuracies are means of the means of parts, level by level; parts without an item in a draw are left out of it.
    `wug_adj` is Spearman's rho, `reading` and `eye_tracking` are the share (0 to 1) of the variance left by the
    baseline that surprisal explains, `perplexity` is one per token.
    """
    value_N = _column(items, "value")
    given = np.ones((1, len(value_N))) if weight_BN is None else np.asarray(weight_BN, np.float64)
    if given.ndim != 2 or given.shape[1] != len(value_N):
        raise ValueError(f"weights must be [draws, {len(value_N)} items], found {given.shape}")
    found = _scores(task, items, value_N, given)
    return float(found[0]) if weight_BN is None else found


def part_scores(task: str, items: Items) -> dict[str, float]:
    """The score of each part of an accuracy task, by name; of other tasks nothing."""
    if task in _OTHER:
        return {}
    parts, value_N = _strings(items, "part"), _column(items, "value")
    return {str(name): float(value_N[parts == name].mean()) for name in np.unique(parts)}


def _scores(task: str, items: Items, value_N: Floats, weight_BN: Floats) -> Floats:
    if task in _OTHER:
        return _OTHER[task](value_N, _matrix(items, "inputs"), weight_BN)
    return _accuracy(value_N, _strings(items, "part"), weight_BN)


def _accuracy(value_N: Floats, part_N: npt.NDArray[np.str_], weight_BN: Floats) -> Floats:
    names, part_of_N = np.unique(part_N, return_inverse=True)
    means: dict[tuple[str, ...], Floats] = {}
    for p, name in enumerate(names):
        where = np.flatnonzero(part_of_N == p)
        some = weight_BN[:, where]
        with np.errstate(invalid="ignore"):
            means[tuple(str(name).split("/"))] = some @ value_N[where] / some.sum(1)
    return _mean_of_parts(means)


def _mean_of_parts(means: Mapping[tuple[str, ...], Floats]) -> Floats:
    """Means by path, `[B]` each: those of one folder first, then of the folders; NaN counts as not there."""
    if () in means:
        return means[()]
    folders: dict[str, dict[tuple[str, ...], Floats]] = {}
    for path, mean_B in means.items():
        folders.setdefault(path[0], {})[path[1:]] = mean_B
    mean_BK = np.stack([_mean_of_parts(one) for one in folders.values()], axis=1)
    there = ~np.isnan(mean_BK)
    with np.errstate(invalid="ignore"):
        found: Floats = np.where(there, mean_BK, 0.0).sum(1) / there.sum(1)
    return found


def _spearman(value_N: Floats, inputs_NK: Floats, weight_BN: Floats) -> Floats:
    """Rho of the model's values with the first input: the correlation of ranks, ties sharing theirs."""
    x_BN, y_BN = _ranks(value_N, weight_BN), _ranks(inputs_NK[:, 0], weight_BN)
    total_B1 = weight_BN.sum(1, keepdims=True)
    x_BN, y_BN = (one - (weight_BN * one).sum(1, keepdims=True) / total_B1 for one in (x_BN, y_BN))
    with np.errstate(invalid="ignore"):
        found: Floats = (weight_BN * x_BN * y_BN).sum(1) / np.sqrt(
            (weight_BN * x_BN**2).sum(1) * (weight_BN * y_BN**2).sum(1)
        )
    return found


def _ranks(value_N: Floats, weight_BN: Floats) -> Floats:
    """The rank of each value where each item is there so many times, `[B, N]`."""
    _, group_N = np.unique(value_N, return_inverse=True)
    count_BG = np.zeros((len(weight_BN), int(group_N.max()) + 1))
    np.add.at(count_BG.T, group_N, weight_BN.T)
    middle_BG = np.cumsum(count_BG, axis=1) - (count_BG - 1) / 2
    return middle_BG[:, group_N]


def _perplexity(value_N: Floats, inputs_NK: Floats, weight_BN: Floats) -> Floats:
    """Items are documents: nats, and as inputs tokens and bytes."""
    found: Floats = np.exp((weight_BN @ value_N) / (weight_BN @ inputs_NK[:, 0]))
    return found


SURPRISAL_BEFORE, COVARIATES = 0, 5
"""Of the inputs of reading tasks: surprisal of the word before, log frequency, length, context length, length of the
word before; then the measured times."""


def _reading(value_N: Floats, inputs_NK: Floats, weight_BN: Floats) -> Floats:
    """Self-paced reading: what spills over from the word before is in the baseline."""
    before, covariates = inputs_NK[:, SURPRISAL_BEFORE], inputs_NK[:, 1:COVARIATES]
    base_NK = _with_products(np.column_stack([covariates, before]))
    return _gain(base_NK, value_N, inputs_NK[:, COVARIATES], weight_BN)


def _eye_tracking(value_N: Floats, inputs_NK: Floats, weight_BN: Floats) -> Floats:
    """The mean gain over the four eye-tracking times."""
    base_NK = _with_products(inputs_NK[:, 1:4])
    gains = [
        _gain(base_NK, value_N, inputs_NK[:, column], weight_BN)
        for column in range(COVARIATES, inputs_NK.shape[1])
    ]
    found: Floats = np.mean(gains, axis=0)
    return found


def _with_products(x_NK: Floats) -> Floats:
    """The columns and the products of every two of them."""
    k = x_NK.shape[1]
    # About their means: the span together with a constant is the same, and the arithmetic far better.
    x_NK = x_NK - np.nanmean(x_NK, axis=0)
    return np.column_stack(
        [x_NK, *(x_NK[:, i] * x_NK[:, j] for i in range(k) for j in range(i + 1, k))]
    )


def _gain(base_NK: Floats, surprisal_N: Floats, y_N: Floats, weight_BN: Floats) -> Floats:
    """(R² with surprisal - R² of the baseline) / (1 - R² of the baseline), by least squares with a constant."""
    x_NK = np.column_stack([base_NK, surprisal_N])
    there = ~(np.isnan(x_NK).any(1) | np.isnan(y_N))
    weight_BN = weight_BN[:, there]
    left, left_base = (_left(columns[there], y_N[there], weight_BN) for columns in (x_NK, base_NK))
    found: Floats = 1 - left / left_base
    return found


def _left(x_NK: Floats, y_N: Floats, weight_BN: Floats) -> Floats:
    """The weighted squares that a least-squares fit with a constant leaves, `[B]`."""
    z_NK = np.column_stack([x_NK, y_N])
    z_NK = (z_NK - z_NK.mean(0)) / np.where(z_NK.std(0) > 0, z_NK.std(0), 1.0)
    z_NK = np.column_stack([np.ones(len(z_NK)), z_NK])
    k = z_NK.shape[1]
    products_NKK = (z_NK[:, :, None] * z_NK[:, None, :]).reshape(len(z_NK), -1)
    s_BKK = (weight_BN @ products_NKK).reshape(-1, k, k)
    xx, xy, yy = s_BKK[:, :-1, :-1], s_BKK[:, :-1, -1], s_BKK[:, -1, -1]
    # The pseudo-inverse: a few items, or a draw of them, may not tell all columns apart.
    beta = (np.linalg.pinv(xx, rcond=1e-12, hermitian=True) @ xy[:, :, None])[:, :, 0]
    found: Floats = yy - (beta * xy).sum(1)
    return found


_OTHER = {
    "wug_adj": _spearman,
    "perplexity": _perplexity,
    "reading": _reading,
    "eye_tracking": _eye_tracking,
}


def _column(items: Items, name: str) -> Floats:
    found = items[name]
    return np.asarray(found.to_pylist() if isinstance(items, pa.Table) else found, np.float64)


def _matrix(items: Items, name: str) -> Floats:
    found = items[name]
    return np.asarray(found.to_pylist() if isinstance(items, pa.Table) else list(found), np.float64)


def _strings(items: Items, name: str) -> npt.NDArray[np.str_]:
    found = items[name]
    return np.asarray(found.to_pylist() if isinstance(items, pa.Table) else list(found), np.str_)
