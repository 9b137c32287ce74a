"""The decoding loop: prefixes and uniforms in, rows of tokens out. It contains no maths.

A step runs the expert, the amateur and `sampling.draw`, and feeds both the token drawn. All memory is
taken at the first batch and reused while the geometry stays: a recipe's batches all have one geometry,
because sums depend on shapes (design section 4). The caller sets the number of threads.

Cost per step: one forward of each model for B rows, about two log-softmaxes over [B, V], and little more.

Shapes: B rows, P prefixes, T tokens (of a prefix, or new ones), V vocabulary entries. Rows are prefix-major:
row = prefix * completions + completion.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cdgen.decode import sampling
from cdgen.decode.contrast import Rule
from cdgen.decode.models import LanguageModel, State, check_vocabularies
from cdgen.errors import BuildError, UsageError

if TYPE_CHECKING:
    from cdgen.recipes.schema import Decode

CHECK_EVERY = 16
"""Steps between looks at whether all rows have ended: a GPU must be waited for each time."""

NO_TOKEN = -1
"""The id beyond a row's length."""

Number = TypeVar("Number", np.int32, np.float32)


@dataclass(frozen=True)
class Rows:
    """What was decoded. Arrays are the caller's own: the engine does not touch them again."""

    ids_BT: npt.NDArray[np.int32]
    """The tokens drawn; NO_TOKEN after a row's end."""
    logp_expert_BT: npt.NDArray[np.float32]
    """log p_G of each over the full vocabulary at the decode temperature, nats; 0 after a row's end."""
    logp_amateur_BT: npt.NDArray[np.float32]
    """log p_B likewise; 0 without an amateur."""
    head_size_BT: npt.NDArray[np.int32]
    """Tokens with p_G > alpha * max p_G; 0 after a row's end."""
    length_B: npt.NDArray[np.int32]
    """Tokens drawn, the end-of-text token included."""


@dataclass
class _Memory:
    """What one geometry needs, in step-major order so that a step writes one run of memory."""

    expert: State
    amateur: State | None
    ids_TB: Tensor
    logp_expert_TB: Tensor
    logp_amateur_TB: Tensor
    head_size_TB: Tensor


class Engine:
    """A pair of models and a rule, ready to decode batch after batch.

    Args:
        expert: p_G.
        amateur: p_B; None for head_only and sample. One that the rule does not use is still run, and its
            log-probabilities are recorded.
        decode: the recipe's decode part.
        amateur_temperature: the recipe's amateur.temperature.
        new_tokens: T, drawn per row.
        stop_at_eos: end a row at its first end-of-text token.
        eos_id: that token; needed with stop_at_eos.

    Raises:
        UsageError: no amateur for contrastive, different vocabularies, stop_at_eos without eos_id.
    """

    def __init__(
        self,
        expert: LanguageModel,
        amateur: LanguageModel | None,
        decode: "Decode",
        *,
        new_tokens: int,
        amateur_temperature: float = 1.0,
        stop_at_eos: bool = False,
        eos_id: int | None = None,
    ) -> None:
        self.expert, self.amateur = expert, amateur
        self.rule = Rule.of(decode, amateur_temperature=amateur_temperature)
        self.new_tokens = new_tokens
        self.eos_id = eos_id if stop_at_eos else None
        self._memory: _Memory | None = None
        if amateur is not None:
            check_vocabularies(expert, amateur)
        elif self.rule.method == "contrastive":
            raise UsageError("decode.method contrastive needs an amateur")
        if stop_at_eos and eos_id is None:
            raise UsageError("generate.stop_at_eos needs a tokenizer with an end-of-text token")

    @torch.inference_mode()
    def decode(
        self,
        prefix_PT: Tensor | npt.NDArray[np.int64],
        uniforms_BT: npt.NDArray[np.float64],
        *,
        on_step: Callable[[int], None] | None = None,
    ) -> Rows:
        """Continue P prefixes of equal length, B / P times each.

        Args:
            prefix_PT: token ids, int64.
            uniforms_BT: float64 in [0, 1), [B, new_tokens]; see `sampling.uniforms`.
            on_step: called after each step with the tokens drawn so far in this batch.

        Raises:
            UsageError: shapes that do not fit, or a sequence longer than a model allows.
            BuildError: a model's output is not a number.
        """
        prefix_PT = torch.as_tensor(prefix_PT, dtype=torch.int64).to(self.expert.device)
        self._check(prefix_PT, uniforms_BT)
        rows = uniforms_BT.shape[0]
        memory = self._allocate(rows, prefix_PT.shape[1])
        # Step-major and contiguous: a step reads one run of memory.
        uniform_TB = torch.from_numpy(uniforms_BT.T.copy()).to(self.expert.device)
        steps = self._loop(memory, prefix_PT, uniform_TB, on_step)
        return self._collect(memory, steps)

    def _check(self, prefix_PT: Tensor, uniforms_BT: npt.NDArray[np.float64]) -> None:
        prefixes, length = prefix_PT.shape
        rows, new_tokens = uniforms_BT.shape
        if uniforms_BT.dtype != np.float64:
            raise UsageError(f"uniforms must be float64, found {uniforms_BT.dtype}")
        if new_tokens != self.new_tokens:
            raise UsageError(f"{self.new_tokens} uniforms per row are needed, found {new_tokens}")
        if not prefixes or not length or rows % prefixes:
            raise UsageError(
                f"rows must be a multiple of prefixes, found {rows} and {prefixes} of {length} tokens"
            )
        for name, model in (("expert", self.expert), ("amateur", self.amateur)):
            longest = None if model is None else model.max_positions
            if longest is not None and length + new_tokens > longest:
                raise UsageError(
                    f"prefix and new tokens must fit the {name}'s {longest} positions, "
                    f"found {length} + {new_tokens}"
                )

    def _allocate(self, rows: int, prefix_tokens: int) -> _Memory:
        """This geometry's memory: kept from the batch before where it is the same."""
        length = prefix_tokens + self.new_tokens
        kept = self._memory
        if kept is not None and (kept.expert.rows, kept.expert.length) == (rows, length):
            return kept
        self._memory = None  # first give back, then take
        shape, device = (self.new_tokens, rows), self.expert.device
        self._memory = _Memory(
            expert=self.expert.allocate(rows, length),
            amateur=None if self.amateur is None else self.amateur.allocate(rows, length),
            ids_TB=torch.zeros(shape, dtype=torch.int64, device=device),
            logp_expert_TB=torch.zeros(shape, device=device),
            logp_amateur_TB=torch.zeros(shape, device=device),
            head_size_TB=torch.zeros(shape, dtype=torch.int64, device=device),
        )
        return self._memory

    def _loop(
        self,
        memory: _Memory,
        prefix_PT: Tensor,
        uniform_TB: Tensor,
        on_step: Callable[[int], None] | None,
    ) -> int:
        """Fill `memory`; returns the number of steps made (fewer when all rows ended)."""
        steps, rows = uniform_TB.shape
        expert_BV, amateur_BV = self._prefill(memory, prefix_PT, rows // prefix_PT.shape[0])
        ended_B = torch.zeros(rows, dtype=torch.bool, device=self.expert.device)
        for step in range(steps):
            draw = sampling.draw(expert_BV, amateur_BV, uniform_TB[step], self.rule)
            memory.ids_TB[step] = draw.token_B
            memory.logp_expert_TB[step] = draw.logp_expert_B
            memory.head_size_TB[step] = draw.head_size_B
            if draw.logp_amateur_B is not None:
                memory.logp_amateur_TB[step] = draw.logp_amateur_B
            if on_step is not None:
                on_step((step + 1) * rows)
            if self.eos_id is not None:
                ended_B |= draw.token_B == self.eos_id
                if step % CHECK_EVERY == 0 and bool(ended_B.all()):
                    return step + 1
            if step + 1 < steps:
                # Ended rows go on with the tokens they draw: nobody's geometry changes.
                expert_BV, amateur_BV = self._step(memory, draw.token_B)
        return steps

    def _prefill(
        self, memory: _Memory, prefix_PT: Tensor, completions: int
    ) -> tuple[Tensor, Tensor | None]:
        """Logits [B, V] after the prefixes, computed once per prefix."""
        expert_PV = self.expert.prefill(memory.expert, prefix_PT)
        expert_BV = expert_PV.repeat_interleave(completions, dim=0)
        if self.amateur is None or memory.amateur is None:
            return expert_BV, None
        amateur_PV = self.amateur.prefill(memory.amateur, prefix_PT.to(self.amateur.device))
        return expert_BV, amateur_PV.to(expert_BV.device).repeat_interleave(completions, dim=0)

    def _step(self, memory: _Memory, token_B: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits [B, V] after one more token."""
        expert_BV = self.expert.step(memory.expert, token_B)
        if self.amateur is None or memory.amateur is None:
            return expert_BV, None
        amateur_BV = self.amateur.step(memory.amateur, token_B.to(self.amateur.device))
        return expert_BV, amateur_BV.to(expert_BV.device)

    def _collect(self, memory: _Memory, steps: int) -> Rows:
        """Row-major copies, cut at each row's end."""
        length_B = self._lengths(memory.ids_TB[:steps])
        past_BT = np.arange(self.new_tokens) >= length_B[:, None]

        def rows(value_TB: Tensor, dtype: type[Number], fill: int) -> npt.NDArray[Number]:
            value_BT: npt.NDArray[Number] = value_TB.cpu().numpy().T.astype(dtype, order="C")
            value_BT[past_BT] = fill
            return value_BT

        out = Rows(
            ids_BT=rows(memory.ids_TB, np.int32, NO_TOKEN),
            logp_expert_BT=rows(memory.logp_expert_TB, np.float32, 0),
            logp_amateur_BT=rows(memory.logp_amateur_TB, np.float32, 0),
            head_size_BT=rows(memory.head_size_TB, np.int32, 0),
            length_B=length_B,
        )
        for name in ("expert", "amateur"):
            if not np.isfinite(getattr(out, f"logp_{name}_BT")).all():
                raise BuildError(
                    f"the {name}'s output is not a number: its weights or dtype are unfit"
                )
        return out

    def _lengths(self, ids_TB: Tensor) -> npt.NDArray[np.int32]:
        """Tokens up to the first end-of-text, itself included."""
        steps, rows = ids_TB.shape
        if self.eos_id is None:
            return np.full(rows, steps, dtype=np.int32)
        ends_TB = (ids_TB == self.eos_id).cpu().numpy()
        return np.where(ends_TB.any(axis=0), ends_TB.argmax(axis=0) + 1, steps).astype(np.int32)
