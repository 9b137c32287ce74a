"""Log-probabilities of many token sequences under a causal model of transformers, in few and full batches.

What sequences share at their beginnings is run once (`trie.py`), rows of about one length make a batch, and only
nodes with a scored token after them go through the vocabulary projection. A model whose attention cannot be told
which tokens to see runs the same sequences one to a row.

Shapes: B rows of a batch, T nodes of the longest, n nodes that are projected, e edges of a batch, V vocabulary entries.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from cdgen.decode.models import attention_windows, max_positions_of, vocab_size_of
from cdgen.errors import UsageError
from cdgen.evaluation.trie import Floats, Ints, Neighbours, Rows
from cdgen.evaluation.trie import Sequence as Tokens

CAPACITIES = (64, 128, 256, 512, 1024)
"""Nodes of a row that are tried: longer rows share more, and cost more attention."""
BATCH_NODES = 2048
MAX_LOGITS = 1 << 25
"""Entries of the logits that are there at once (128 MiB in float32)."""
_CACHED_ROWS = 32
_ATTENTION_COST = 3.0
"""What a multiplication of attention under a mask costs beside one of a linear layer; measured on two cores."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be run; `shares`: as trees, else one sequence to a row."""

    rows: Rows
    shares: bool


@dataclass(frozen=True, slots=True)
class Scorer:
    """A model, ready to score.

    Attributes:
        model: in evaluation mode.
        shares: whether what sequences share is run once.
    """

    model: PreTrainedModel
    shares: bool

    @classmethod
    def of(cls, model: PreTrainedModel) -> Self:
        """The fastest one that is right for a model."""
        return cls(model, can_share(model))

    def plan(self, sequences: Sequence[Tokens]) -> Plan:
        """How these sequences are run; follows from the set of them, whatever their order.

        Raises:
            UsageError: one is longer than the model can read.
        """
        # A text of one token is predicted by nothing and costs nothing; its sum is 0.
        longest = max((len(one.ids) for one in sequences), default=0)
        _check_length(self.model, longest)
        # A window would have to be cut out of every mask: sequences longer than one are rare.
        shares = self.shares and all(
            window is None or window >= longest for window in attention_windows(self.model)
        )
        neighbours = Neighbours.of(sequences)
        capacity = _best_capacity(self.model, neighbours) if shares else 0
        return Plan(neighbours.rows(capacity), shares)

    def sums(self, plan: Plan, advance: Callable[[int], object]) -> Floats:
        """The sum of the log-probabilities of each sequence's tokens from `start` on, float64 `[sequences]`.

        Args:
            plan: of `plan`.
            advance: told of rows as they are done.
        """
        logp_E = np.zeros(len(plan.rows.parent_E))
        nodes = max(1, min(BATCH_NODES, MAX_LOGITS // vocab_size_of(self.model)))
        for batch in _batches(plan.rows, nodes):
            logp_E[batch.edges] = _run(self.model, batch, shares=plan.shares)
            advance(len(batch.token_BT))
        return plan.rows.sums(logp_E)


def can_share(model: PreTrainedModel) -> bool:
    """Whether a model can be told, by a mask and positions, which tokens each token sees; tried out, not believed."""
    arguments = inspect.signature(model.forward).parameters
    if "position_ids" not in arguments or not (
        model._supports_attention_backend and model._supports_sdpa  # noqa: SLF001
    ):
        return False
    try:
        attention_windows(model)
    except UsageError:
        return False
    return _agrees(model)


def _agrees(model: PreTrainedModel) -> bool:
    """Whether a small tree gives the log-probabilities that its branches give by themselves."""
    ids = np.arange(1, 10) % vocab_size_of(model)
    branches = [
        Tokens(ids, 1),
        Tokens(np.concatenate([ids[:3], ids[:4]]), 1),
        Tokens(ids[[0, 5]], 1),
    ]
    neighbours = Neighbours.of(branches)
    one, each = (
        Scorer(model, shares=False).sums(Plan(neighbours.rows(capacity), shares), _ignore)
        for capacity, shares in ((1 << 10, True), (0, False))
    )
    tolerance = 1e-5 if model.dtype in (torch.float32, torch.float64) else 0.02
    return bool(np.allclose(one, each, rtol=tolerance, atol=100 * tolerance))


def _ignore(_: int) -> None:
    pass


def _check_length(model: PreTrainedModel, longest: int) -> None:
    """Rotary positions go on beyond what was trained, badly; learned ones end."""
    limit = max_positions_of(model)
    config: Any = model.config.get_text_config(decoder=True)
    goes_on = any(
        getattr(config, name, None) for name in ("rope_parameters", "rope_theta", "alibi")
    )
    if limit is not None and longest - 1 > limit and not goes_on:
        raise UsageError(
            f"a text of {longest} tokens is longer than the {limit} positions of this {type(model).__name__}"
        )


def _best_capacity(model: PreTrainedModel, neighbours: Neighbours) -> int:
    """Where linear layers on all nodes and attention within rows together cost least."""
    config: Any = model.config.get_text_config(decoder=True)
    layers, hidden = int(config.num_hidden_layers), int(config.hidden_size)
    linear = 2.0 * 12 * layers * hidden**2  # near enough for every transformer
    attention = _ATTENTION_COST * 4.0 * layers * hidden

    def cost(capacity: int) -> float:
        sizes = np.array(neighbours.row_sizes(capacity), np.float64)
        return float(linear * sizes.sum() + attention * (sizes**2).sum())

    return min(CAPACITIES, key=cost)


@dataclass(frozen=True, slots=True)
class _Batch:
    """Rows of about one length, filled up at their ends by nodes that see themselves."""

    token_BT: Ints
    depth_BT: Ints
    end_BT: Ints
    is_node_BT: np.ndarray
    projected_n: Ints
    """Nodes with a scored token after them, counted through [B, T]."""
    edges: Ints
    """The batch's edges, as the rows number them."""
    node_e: Ints
    """Which of the projected nodes each comes after."""
    target_e: Ints


def _batches(rows: Rows, max_nodes: int) -> Iterator[_Batch]:
    """Rows by length, `max_nodes` nodes at once at most (one row at least)."""
    sizes = np.diff(rows.first_R)
    by_length = np.argsort(sizes, kind="stable")[::-1]
    row_E = np.searchsorted(rows.first_R, rows.parent_E, side="right") - 1
    by_row = np.argsort(row_E, kind="stable")
    edge_first = np.searchsorted(row_E[by_row], np.arange(len(rows) + 1))
    at = 0
    while at < len(by_length):
        # A text of one token is predicted by nothing and costs nothing; its sum is 0.
        longest = max(1, int(sizes[by_length[at]]))
        chosen = by_length[at : at + max(1, max_nodes // longest)]
        at += len(chosen)
        edges = np.concatenate([by_row[edge_first[r] : edge_first[r + 1]] for r in chosen])
        yield _batch(rows, chosen, longest, edges, row_E)


def _batch(rows: Rows, chosen: Ints, longest: int, edges: Ints, row_E: Ints) -> _Batch:
    first, sizes = rows.first_R[chosen], np.diff(rows.first_R)[chosen]
    place_BT = np.arange(longest)[None].repeat(len(chosen), 0)
    is_node_BT = place_BT < sizes[:, None]
    node_BT = np.where(is_node_BT, first[:, None] + place_BT, first[:, None])
    slot_of_row = np.zeros(len(rows), np.int64)
    slot_of_row[chosen] = np.arange(len(chosen))
    slot_e = slot_of_row[row_E[edges]]
    flat_e = slot_e * longest + rows.parent_E[edges] - first[slot_e]
    projected_n, node_e = np.unique(flat_e, return_inverse=True)
    return _Batch(
        token_BT=rows.token_N[node_BT],
        depth_BT=np.where(is_node_BT, rows.depth_N[node_BT], 0),
        end_BT=np.where(is_node_BT, rows.end_N[node_BT], place_BT + 1),
        is_node_BT=is_node_BT,
        projected_n=projected_n,
        edges=edges,
        node_e=node_e,
        target_e=rows.target_E[edges],
    )


@torch.inference_mode()
def _run(model: PreTrainedModel, batch: _Batch, *, shares: bool) -> np.ndarray:
    """log p of each edge of a batch, `[e]`."""
    device = model.device
    seen: dict[str, Tensor]
    if shares:
        end_BT = torch.from_numpy(batch.end_BT).to(device)
        place_T = torch.arange(end_BT.shape[1], device=device)
        sees_BTT = (place_T <= place_T[:, None]) & (place_T[:, None] < end_BT[:, None, :])
        seen = {
            "attention_mask": sees_BTT[:, None],
            "position_ids": torch.from_numpy(batch.depth_BT).to(device),
        }
    else:
        seen = {"attention_mask": torch.from_numpy(batch.is_node_BT.astype(np.int64)).to(device)}
    projected_n = torch.from_numpy(batch.projected_n).to(device)
    with _projecting(model, projected_n):
        out = model(input_ids=torch.from_numpy(batch.token_BT).to(device), use_cache=False, **seen)
    logits_nV = out.logits.reshape(len(projected_n), -1).float()
    node_e, target_e = (torch.from_numpy(one).to(device) for one in (batch.node_e, batch.target_e))
    # In pieces that stay in a core's cache: the sum over the vocabulary reads them three times.
    total_n = torch.cat([some.logsumexp(-1) for some in logits_nV.split(_CACHED_ROWS)])
    logp_e = logits_nV[node_e, target_e] - total_n[node_e]
    found: np.ndarray = logp_e.cpu().numpy()
    return found


@contextmanager
def _projecting(model: PreTrainedModel, projected_n: Tensor) -> Iterator[None]:
    """Inside, the vocabulary projection takes only these nodes, as one row: `[1, n, hidden]`."""
    head = model.get_output_embeddings()
    assert isinstance(head, torch.nn.Module)

    def chosen(_: torch.nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (given[0].flatten(0, 1)[projected_n][None], *given[1:])

    handle = head.register_forward_pre_hook(chosen)
    try:
        yield
    finally:
        handle.remove()
