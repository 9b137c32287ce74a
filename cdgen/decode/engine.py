"""The decoding loop: prefixes and uniforms in, rows of tokens out. It contains no maths.

A step runs the expert, the amateur and further models, in that order or side by side (`abreast`), then
`sampling.draw`, and feeds all of them the token drawn. Each has its own cache, dtype and device; tokens are
drawn on the expert's. All memory is taken at the first batch and reused while the geometry stays: a recipe's
batches all have one geometry, because sums depend on shapes (design section 4). The caller sets the number of
threads.

Cost per step: one forward of each model for B rows, about two log-softmaxes over [B, V], and little more.

Shapes: B rows, P prefixes, T tokens (of a prefix, or new ones), V vocabulary entries, K further models. Rows are
prefix-major: row = prefix * completions + completion.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cdgen.decode import graphs, sampling
from cdgen.decode.abreast import Abreast, threads_each
from cdgen.decode.contrast import Rule
from cdgen.decode.graphs import CHECK_EVERY, StaticLoop, Watch
from cdgen.decode.models import Keyed, LanguageModel, State, shared_vocabulary
from cdgen.decode.repeats import Repeats
from cdgen.errors import BuildError, UsageError

if TYPE_CHECKING:
    from cdgen.recipes.schema import Decode

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

    rows: int
    length: int
    states: list[State]
    """One per model, in the order of `Engine.models`."""
    ids_TB: Tensor
    logp_expert_TB: Tensor
    logp_amateur_TB: Tensor
    head_size_TB: Tensor
    logp_further_KTB: Tensor
    """Only to see that they are numbers."""
    repeats: Repeats | None
    """Where the rule forbids repeated n-grams."""
    loop: StaticLoop | None = None
    """Where the steps can be replayed."""


class Engine:
    """Models and a rule, ready to decode batch after batch.

    Args:
        expert: p_G.
        amateur: p_B; None where the rule does not need it. One that the rule does not use is still run, and
            its log-probabilities are recorded.
        decode: the recipe's decode part.
        amateur_temperature: the recipe's amateur.temperature.
        new_tokens: T, drawn per row.
        stop_at_eos: end a row at its first end-of-text token.
        eos_id: that token; needed with stop_at_eos.
        further: the other models of weighted_sum, in the order of the recipe's `decode.further`.
        vocab_size: V of the tokenizer. What models score beyond it (padding of their embeddings) is cut off
            before anything else. None: all models must score equally many tokens.

    Raises:
        UsageError: no amateur where one is needed, different vocabularies, stop_at_eos without eos_id.
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
        further: Sequence[LanguageModel] = (),
        vocab_size: int | None = None,
    ) -> None:
        self.expert, self.amateur, self.further = expert, amateur, tuple(further)
        self.rule = Rule.of(decode, amateur_temperature=amateur_temperature)
        self.new_tokens = new_tokens
        self.eos_id = eos_id if stop_at_eos else None
        self._memory: _Memory | None = None
        self._abreast: Abreast | None = None
        self.vocab_size = shared_vocabulary(self.named, vocab_size)
        if amateur is None and self.rule.needs_amateur:
            raise UsageError(f"decode.method {self.rule.method} needs an amateur")
        if len(self.further) != len(self.rule.further_temperatures):
            raise UsageError(
                f"decode.models asks for {len(self.rule.further_temperatures)} further models, "
                f"found {len(self.further)}"
            )
        if stop_at_eos and eos_id is None:
            raise UsageError("generate.stop_at_eos needs a tokenizer with an end-of-text token")
        self.replays = graphs.fits(self.models, self.rule)
        self.draws_fused = graphs.draws_fused(self.rule, len(self.models), expert.device)

    @property
    def path(self) -> str:
        """How each model, a step and the draw run, in a few words."""
        models = "; ".join(f"{name}: {model.path}" for name, model in self.named)
        steps = "one CUDA graph per step" if self.replays else "steps launched one by one"
        each = threads_each(self.models)
        if each:
            steps += f", models side by side with {each} of the threads each"
        return f"{models}; {steps}; draw in {'one kernel' if self.draws_fused else 'torch'}"

    @property
    def named(self) -> list[tuple[str, LanguageModel]]:
        """Every model with its name for messages, in the order they run in: expert, amateur, further ones."""
        found = [("expert", self.expert)]
        if self.amateur is not None:
            found.append(("amateur", self.amateur))
        return found + [(f"further model {k + 1}", model) for k, model in enumerate(self.further)]

    @property
    def models(self) -> list[LanguageModel]:
        """The same without names."""
        return [model for _, model in self.named]

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
        for model, state in zip(self.models, memory.states, strict=True):
            if isinstance(model, Keyed):
                model.key_rows(state, torch.from_numpy(sampling.row_keys(uniforms_BT)))
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
        if self.rule.no_repeat_ngram is not None and length + new_tokens > self.vocab_size:
            raise UsageError(
                "decode.no_repeat_ngram needs rows no longer than the vocabulary, or every token could be "
                f"forbidden; found {length} + {new_tokens} tokens and {self.vocab_size} entries"
            )
        for name, model in self.named:
            longest = model.max_positions
            if longest is not None and length + new_tokens > longest:
                raise UsageError(
                    f"prefix and new tokens must fit the {name}'s {longest} positions, "
                    f"found {length} + {new_tokens}"
                )

    def _allocate(self, rows: int, prefix_tokens: int) -> _Memory:
        """This geometry's memory: kept from the batch before where it is the same."""
        length = prefix_tokens + self.new_tokens
        kept = self._memory
        if kept is not None and (kept.rows, kept.length) == (rows, length):
            return kept
        self._memory = None  # first give back, then take
        shape, device = (self.new_tokens, rows), self.expert.device
        ngram = self.rule.no_repeat_ngram
        self._memory = _Memory(
            rows=rows,
            length=length,
            states=[model.allocate(rows, length) for model in self.models],
            ids_TB=torch.zeros(shape, dtype=torch.int64, device=device),
            logp_expert_TB=torch.zeros(shape, device=device),
            logp_amateur_TB=torch.zeros(shape, device=device),
            head_size_TB=torch.zeros(shape, dtype=torch.int64, device=device),
            logp_further_KTB=torch.zeros((len(self.further), *shape), device=device),
            repeats=None
            if ngram is None
            else Repeats(ngram, rows=rows, length=length, vocab=self.vocab_size, device=device),
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
        logits = self._prefill(memory, prefix_PT)
        if self.replays:
            return self._static_loop(memory).run(
                logits,
                uniform_TB,
                prefix_tokens=prefix_PT.shape[1],
                eos_id=self.eos_id,
                on_step=on_step,
            )
        watch = Watch(memory.ids_TB, self.eos_id)
        for step in range(steps):
            token_B = self._draw(memory, step, logits, uniform_TB[step])
            if on_step is not None:
                on_step((step + 1) * rows)
            if step % CHECK_EVERY == 0 and watch.all_ended(step + 1):
                return step + 1
            if step + 1 < steps:
                # Ended rows go on with the tokens they draw: nobody's geometry changes.
                logits = self._step(memory, token_B)
        return steps

    def _static_loop(self, memory: _Memory) -> StaticLoop:
        """This geometry's loop: kept from the batch before while the models' caches are the same."""
        if memory.loop is None or not memory.loop.serves(memory.states):
            memory.loop = None  # first give its graph back
            memory.loop = StaticLoop(
                self.models,
                memory.states,
                memory,
                self.rule,
                amateurs=0 if self.amateur is None else 1,
                vocab_size=self.vocab_size,
                graph=self.expert.device.type == "cuda",
            )
        return memory.loop

    def _draw(
        self, memory: _Memory, step: int, logits: Sequence[Tensor], uniform_B: Tensor
    ) -> Tensor:
        """The tokens of one step, recorded in `memory`."""
        banned_BV = None if memory.repeats is None else memory.repeats.banned()
        draw = partial(self._draw_rows, memory, step, logits, uniform_B, banned_BV)
        together = self._together()
        if together is None:
            draw(slice(None))
        else:  # a row's draw has the same bits whatever its neighbours
            together.run([partial(draw, rows) for rows in together.shares(memory.rows)])
        return memory.ids_TB[step]

    @torch.inference_mode()
    def _draw_rows(  # noqa: PLR0917  # one call, bound twice
        self,
        memory: _Memory,
        step: int,
        logits: Sequence[Tensor],
        uniform_B: Tensor,
        banned_BV: Tensor | None,
        rows: slice,
    ) -> None:
        """Draw for some of the rows."""
        amateurs = 0 if self.amateur is None else 1
        logits = [logits_BV[rows] for logits_BV in logits]
        draw = graphs.draw_from(
            logits[0],
            logits[1] if amateurs else None,
            uniform_B[rows],
            self.rule,
            further=logits[1 + amateurs :],
            banned_BV=None if banned_BV is None else banned_BV[rows],
            fused=self.draws_fused,
        )
        memory.ids_TB[step, rows] = draw.token_B
        memory.logp_expert_TB[step, rows] = draw.logp_expert_B
        memory.head_size_TB[step, rows] = draw.head_size_B
        if draw.logp_amateur_B is not None:
            memory.logp_amateur_TB[step, rows] = draw.logp_amateur_B
        for k, logp_B in enumerate(draw.logp_further):
            memory.logp_further_KTB[k, step, rows] = logp_B

    def _prefill(self, memory: _Memory, prefix_PT: Tensor) -> list[Tensor]:
        """Every model's logits [B, V] after the prefixes, computed once per prefix (or per row, where rows differ)."""
        if memory.repeats is not None:
            memory.repeats.start(prefix_PT)
        return [
            self._here(_per_row(model.prefill(state, prefix_PT.to(model.device)), memory.rows))
            for model, state in zip(self.models, memory.states, strict=True)
        ]

    def _step(self, memory: _Memory, token_B: Tensor) -> list[Tensor]:
        """Every model's logits [B, V] after one more token."""
        if memory.repeats is not None:
            memory.repeats.append(token_B)
        calls = [
            partial(model.step, state, token_B.to(model.device))
            for model, state in zip(self.models, memory.states, strict=True)
        ]
        together = self._together()
        found = [call() for call in calls] if together is None else together.run(calls)
        return [self._here(logits_BV) for logits_BV in found]

    def _together(self) -> Abreast | None:
        """The threads that share a step; None where one does all."""
        each = threads_each(self.models)
        if each and (self._abreast is None or self._abreast.threads != each):
            self._abreast = Abreast(len(self.models), each)
        return self._abreast if each else None

    def _here(self, logits_BV: Tensor) -> Tensor:
        """On the expert's device, without what lies beyond the vocabulary."""
        return logits_BV[:, : self.vocab_size].to(self.expert.device)

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
        # Beyond a row's end too: there it was fed what it drew. (-inf is a number: p = 0.)
        broken = [
            not np.isfinite(out.logp_expert_BT).all(),
            *([] if self.amateur is None else [not np.isfinite(out.logp_amateur_BT).all()]),
            *(memory.logp_further_KTB[:, :steps].isnan().any(-1).any(-1).tolist()),
        ]
        for bad, (name, _) in zip(broken, self.named, strict=True):
            if bad:
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


def _per_row(logits: Tensor, rows: int) -> Tensor:
    """[B, V] of logits of the prefixes, [P, V], or of the rows themselves."""
    return logits.repeat_interleave(rows // len(logits), dim=0)
