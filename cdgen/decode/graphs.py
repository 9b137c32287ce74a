"""The decoding loop as a fixed list of launches, replayed as one CUDA graph per step.

At a few hundred rows a step of two small models is some hundred kernels of microseconds: launching them one
by one from Python would take longer than they run. A CUDA graph launches all of them at once, but whatever
the host knew at its capture is frozen. So here all that changes from step to step stands in tensors: the
position, the step's number, the tokens. Attention reads the length from the device (`attend_kernel`), so
one graph serves all lengths; the draw is in it where `draw_kernel` covers the rule, and beside it elsewhere.
The host never waits for the step it has just launched.

The same code runs without a graph and on a CPU, for tests; there attention looks at every slot, with a mask.

Shapes: B rows, T new tokens, V vocabulary entries, J key-value heads, G queries per key, L slots, D head size.
"""

import warnings
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Protocol

import torch
from torch import Tensor

from cdgen.decode import sampling
from cdgen.decode.attention import Geometry, Slots
from cdgen.decode.contrast import Rule
from cdgen.decode.llama import EarlyExit, LlamaModel, LlamaState
from cdgen.decode.models import LanguageModel, State
from cdgen.decode.sampling import Draw

CHECK_EVERY = 16
"""Steps between looks at whether all rows have ended: each costs a GPU a few small kernels."""

WARM_UP = 3
"""Runs before a capture: libraries allocate and kernels compile in the first."""


class Record(Protocol):
    """Where a loop writes what it draws, step by step."""

    ids_TB: Tensor
    logp_expert_TB: Tensor
    logp_amateur_TB: Tensor
    head_size_TB: Tensor
    logp_further_KTB: Tensor


class Here:
    """A step's position, read from the device: `llama.Position` for steps that may be captured.

    Args:
        position_1: int64 [1], tokens that a row holds before the step.
        fused: attend in one kernel, which needs Triton.
    """

    def __init__(self, position_1: Tensor, *, fused: bool) -> None:
        self.position_1, self.fused = position_1, fused

    def rope(self, table_LD: Tensor) -> Tensor:
        """The rotation of that position."""
        return table_LD[self.position_1]

    def attend(self, cache: Slots, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Append the rows' newest token and attend with its query, already scaled: [B, H, D]."""
        if not self.fused:
            return attend_masked(cache, query, key, value, self.position_1)
        from cdgen.decode.attend_kernel import attend

        return attend(
            query,
            key,
            value,
            cache.own_keys,
            cache.own_values,
            self.position_1,
            prefix_keys=cache.prefix_keys if cache.shared else None,
            prefix_values=cache.prefix_values if cache.shared else None,
            window=cache.window,
            scale=1.0,
        )


def attend_masked(
    cache: Slots, query: Tensor, key: Tensor, value: Tensor, position_1: Tensor
) -> Tensor:
    """`attend_kernel.attend` in plain torch: over all slots, those not seen masked away. Slow and obvious."""
    rows, _, size = query.shape
    slot_1 = position_1 - cache.shared
    for own, new in ((cache.own_keys, key), (cache.own_values, value)):
        own.index_copy_(2, slot_1, new.unsqueeze(2).to(own.dtype))
    keys = _all_slots(cache.prefix_keys, cache.own_keys)  # [B, J, L, D]
    values = _all_slots(cache.prefix_values, cache.own_values)
    past_L = position_1 - torch.arange(keys.shape[2], device=keys.device)
    seen_L = past_L >= 0 if cache.window is None else (past_L >= 0) & (past_L < cache.window)
    groups = query.float().view(rows, keys.shape[1], -1, size)  # [B, J, G, D]
    score = (groups @ keys.transpose(2, 3)).masked_fill(~seen_L, -torch.inf)
    return (torch.softmax(score, dim=-1) @ values).view(query.shape)


def _all_slots(prefix: Tensor, own: Tensor) -> Tensor:
    """Prefix and own slots of every row, float32."""
    shared = prefix.repeat_interleave(len(own) // len(prefix), dim=0)
    return torch.cat((shared, own), dim=2).float()


def fits(models: Sequence[LanguageModel], rule: Rule) -> bool:
    """True when a step of these models has no number that the host must know, and a GPU to replay it on."""
    device = models[0].device
    return (
        device.type == "cuda"
        and has_triton()
        and rule.no_repeat_ngram is None  # its history knows the step's number
        and all(model.device == device and static(model) for model in models)
    )


def static(model: LanguageModel) -> bool:
    """True when the model's step can read its position from the device."""
    return isinstance(model, EarlyExit) or (isinstance(model, LlamaModel) and not model.paged)


def has_triton() -> bool:
    """True where torch came with Triton."""
    return find_spec("triton") is not None


def draws_fused(rule: Rule, num_models: int, device: torch.device) -> bool:
    """True when `draw_kernel` draws: on a GPU, for one or two models and a rule that it covers."""
    if device.type != "cuda" or num_models > 2 or not has_triton():
        return False
    from cdgen.decode.draw_kernel import covers

    return covers(rule)


def draw_from(
    expert_BV: Tensor,
    amateur_BV: Tensor | None,
    uniform_B: Tensor,
    rule: Rule,
    *,
    further: Sequence[Tensor] = (),
    banned_BV: Tensor | None = None,
    fused: bool,
) -> Draw:
    """`sampling.draw`, or the kernel where `draws_fused` says that it can."""
    if fused:
        from cdgen.decode.draw_kernel import draw

        return draw(expert_BV, amateur_BV, uniform_B, rule)
    return sampling.draw(
        expert_BV.float(),
        None if amateur_BV is None else amateur_BV.float(),
        uniform_B,
        rule,
        further=[further_BV.float() for further_BV in further],
        banned_BV=banned_BV,
    )


class StaticLoop:
    """The steps of one geometry, over tensors that stay where they are from batch to batch.

    Args:
        models, states: after a prefill, so that their caches are there.
        record: where to write.
        rule: how to draw.
        new_tokens: T.
        amateurs: 1 when the second model is the amateur, else 0; the rest are further models.
        vocab_size: V that logits are cut to.
        graph: capture and replay; False = launch one by one.
    """

    def __init__(
        self,
        models: Sequence[LanguageModel],
        states: Sequence[State],
        record: Record,
        rule: Rule,
        *,
        amateurs: int,
        vocab_size: int,
        graph: bool,
    ) -> None:
        self.models, self.states = models, states
        self.record, self.rule = record, rule
        self.amateurs, self.vocab_size, self.graph = amateurs, vocab_size, graph
        device = record.ids_TB.device
        self.position_1 = torch.zeros(1, dtype=torch.int64, device=device)
        self.here = Here(self.position_1, fused=device.type == "cuda")
        self.step_1 = torch.zeros_like(self.position_1)
        self.token_B = torch.zeros_like(record.ids_TB[0])
        self.uniform_TB = torch.zeros(record.ids_TB.shape, dtype=torch.float64, device=device)
        self.draws_fused = draws_fused(rule, len(models), device)
        self.geometries = _geometries(states)
        self._logits: list[Tensor] = []
        self._captured: torch.cuda.CUDAGraph | None = None

    def serves(self, states: Sequence[State]) -> bool:
        """False when the models have taken other caches since."""
        return self.geometries == _geometries(states)

    def run(
        self,
        logits: list[Tensor],
        uniform_TB: Tensor,
        *,
        prefix_tokens: int,
        eos_id: int | None,
        on_step: Callable[[int], None] | None,
    ) -> int:
        """Decode a batch from the logits [B, V] after its prefixes; returns the steps made."""
        with torch.cuda.device_of(self.token_B):  # type: ignore[no-untyped-call]  # whose stream the graph lives on
            self.uniform_TB.copy_(uniform_TB)
            if self.graph and self._captured is None:
                self._captured = self._try_capture(prefix_tokens)
            self._rewind(prefix_tokens)
            self._draw(logits)
            return self._go_on(eos_id, on_step)

    def _go_on(self, eos_id: int | None, on_step: Callable[[int], None] | None) -> int:
        steps, rows = self.uniform_TB.shape
        watch = Watch(self.record.ids_TB, eos_id)
        for step in range(steps):
            if step > 0:
                self._step()
            if on_step is not None:
                on_step((step + 1) * rows)
            if step % CHECK_EVERY == 0 and watch.all_ended(step + 1):
                return step + 1
        return steps

    def _rewind(self, prefix_tokens: int) -> None:
        self.position_1.fill_(prefix_tokens)
        self.step_1.zero_()

    def _step(self) -> None:
        if self._captured is None:
            self._launch()
        else:
            self._captured.replay()
        if not self.draws_fused:
            self._draw(self._logits)

    def _launch(self) -> None:
        """What a graph holds: the forward of every model, and the draw where no shape depends on data."""
        self._logits = [
            self._forward(model, state)[:, : self.vocab_size]
            for model, state in zip(self.models, self.states, strict=True)
        ]
        self.position_1.add_(1)
        if self.draws_fused:
            self._draw(self._logits)

    def _forward(self, model: LanguageModel, state: State) -> Tensor:
        if isinstance(model, LlamaModel) and isinstance(state, LlamaState):
            return model.forward(state, self.token_B.unsqueeze(1), self.here)
        return model.step(state, self.token_B)  # an early exit: what the expert has just computed

    def _draw(self, logits: Sequence[Tensor]) -> None:
        """Draw a token per row, record it at `step_1` and go on to the next step."""
        uniform_B = self.uniform_TB[self.step_1].squeeze(0)
        split = 1 + self.amateurs
        draw = draw_from(
            logits[0],
            logits[1] if self.amateurs else None,
            uniform_B,
            self.rule,
            further=logits[split:],
            fused=self.draws_fused,
        )
        self.token_B.copy_(draw.token_B)
        record = self.record
        for target_TB, value_B in (
            (record.ids_TB, draw.token_B),
            (record.logp_expert_TB, draw.logp_expert_B),
            (record.logp_amateur_TB, draw.logp_amateur_B),
            (record.head_size_TB, draw.head_size_B),
            *zip(record.logp_further_KTB, draw.logp_further, strict=True),
        ):
            if value_B is not None:
                target_TB.index_copy_(0, self.step_1, value_B.unsqueeze(0))
        self.step_1.add_(1)

    def _try_capture(self, prefix_tokens: int) -> torch.cuda.CUDAGraph | None:
        """The graph, or None where this machine cannot capture the step: the same launches give the same rows."""
        try:
            return self._capture(prefix_tokens)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self.graph = False
            reason = str(error).strip().split("\n")[0]
            warnings.warn(
                f"no CUDA graph of a step ({reason}): its kernels are launched one by one, which is slower",
                RuntimeWarning,
                stacklevel=2,
            )
            return None

    def _capture(self, prefix_tokens: int) -> torch.cuda.CUDAGraph:
        """One step as a graph. What the warm-up writes is written again by the first steps."""
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch's own
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(WARM_UP):
                self._rewind(prefix_tokens)
                self._launch()
        torch.cuda.current_stream().wait_stream(aside)
        self._rewind(prefix_tokens)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._launch()
        return graph


def _geometries(states: Sequence[State]) -> list[Geometry | None]:
    """What caches depend on; equal geometries mean the same memory."""
    return [state.geometry if isinstance(state, LlamaState) else None for state in states]


class Watch:
    """Whether all rows have ended, asked without stopping the device.

    Each look is answered at the next one, when the device has long done its part; so the device always has
    steps to go on with, and the host is never more than two looks ahead of it.
    """

    def __init__(self, ids_TB: Tensor, eos_id: int | None) -> None:
        self.ids_TB, self.eos_id = ids_TB, eos_id
        self._asked: tuple[torch.cuda.Event, Tensor] | None = None

    def all_ended(self, steps: int) -> bool:
        """True when every row was seen to end, within `steps` steps or fewer."""
        ended = torch.zeros((), dtype=torch.bool, device=self.ids_TB.device)
        if self.eos_id is not None:
            ended = (self.ids_TB[:steps] == self.eos_id).any(dim=0).all()
        if ended.device.type != "cuda":
            return bool(ended)
        answer = torch.empty((), dtype=torch.bool, pin_memory=True)
        answer.copy_(ended, non_blocking=True)
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch's own
        event.record(torch.cuda.current_stream(ended.device))
        before, self._asked = self._asked, (event, answer)
        if before is None:
            return False
        before[0].synchronize()
        return bool(before[1])
