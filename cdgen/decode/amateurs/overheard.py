"""Amateurs that only listen to the expert's last forward pass: the same logits, or an earlier layer's.

They cost no forward pass of their own. The loop runs the expert first at the prefix and at every step, and feeds
both models the same tokens, so what the expert did last is what the amateur is asked for.

Shapes: B rows, P prefixes, C hidden size, V vocabulary entries.
"""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from cdgen.decode.models import GeneralModel, LanguageModel, State
from cdgen.errors import UsageError

LAYERS = ("layers", "h", "blocks")
NORMS = ("norm", "ln_f", "final_layer_norm", "final_layernorm", "norm_f")
"""What decoders of transformers call their layers and their final norm."""


class Heard:
    """A model that keeps its last logits for an `Echo`."""

    def __init__(self, model: LanguageModel) -> None:
        self.model = model
        self.last: Tensor | None = None

    @property
    def vocab_size(self) -> int:
        """V."""
        return self.model.vocab_size

    @property
    def max_positions(self) -> int | None:
        """The model's."""
        return self.model.max_positions

    @property
    def device(self) -> torch.device:
        """The model's."""
        return self.model.device

    @property
    def path(self) -> str:
        """The model's."""
        return self.model.path

    def allocate(self, rows: int, length: int) -> State:
        """The model's state."""
        return self.model.allocate(rows, length)

    def prefill(self, state: State, prefix_PT: Tensor) -> Tensor:
        """The model's logits [P, V]."""
        self.last = self.model.prefill(state, prefix_PT)
        return self.last

    def step(self, state: State, token_B: Tensor) -> Tensor:
        """The model's logits [B, V]."""
        self.last = self.model.step(state, token_B)
        return self.last


class _Listener(ABC):
    """The facts of the model that is listened to; there is nothing to remember."""

    def __init__(self, model: LanguageModel) -> None:
        self.heard = model

    @property
    def vocab_size(self) -> int:
        """The expert's."""
        return self.heard.vocab_size

    @property
    def max_positions(self) -> int | None:
        """The expert's."""
        return self.heard.max_positions

    @property
    def device(self) -> torch.device:
        """The expert's."""
        return self.heard.device

    def allocate(self, rows: int, length: int) -> State:
        """Nothing."""
        return State(rows=rows, length=length)

    def prefill(self, state: State, prefix_PT: Tensor) -> Tensor:
        """Logits [P, V] after the prefixes that the expert has just seen."""
        return self.logits()

    def step(self, state: State, token_B: Tensor) -> Tensor:
        """Logits [B, V] after the token that the expert has just seen."""
        return self.logits()

    @abstractmethod
    def logits(self) -> Tensor:
        """What the expert's last forward pass gives, float32."""


class Echo(_Listener):
    """The expert's own logits (`kind: temperature`: only the rule's temperature differs)."""

    def __init__(self, expert: Heard) -> None:
        super().__init__(expert)
        self._expert = expert

    @property
    def path(self) -> str:
        """How it runs."""
        return "expert's own logits"

    def logits(self) -> Tensor:
        """Float32 [P or B, V]."""
        assert self._expert.last is not None, "the expert runs first"
        return self._expert.last


class HookedExit(_Listener):
    """A layer of a model of transformers, read through the model's own final norm and head.

    Args:
        expert: on transformers' own forward.
        layer: from 1, below the number of layers.

    Raises:
        UsageError: the layer is not there, or the way from the last layer to the logits is more than a norm and a
            projection (tried on two tokens), so that a middle layer's logits would not be the model's own.
    """

    def __init__(self, expert: GeneralModel, layer: int) -> None:
        super().__init__(expert)
        self.layer = layer
        model = expert.model
        layers, self._norm = _parts(model)
        self._head: nn.Module = model.get_output_embeddings()
        if not 1 <= layer < len(layers):
            raise UsageError(
                f"amateur.layer must lie between 1 and {len(layers) - 1}, found {layer}"
            )
        self._hidden: Tensor | None = None
        _check_way_out(model, layers[-1], self._way_out)
        layers[layer - 1].register_forward_hook(self._keep)

    @property
    def path(self) -> str:
        """How it runs."""
        return f"expert's layer {self.layer}, the same forward pass"

    def _keep(self, _module: nn.Module, _inputs: Any, output: Any) -> None:
        self._hidden = _last_position(output)

    @torch.inference_mode()
    def logits(self) -> Tensor:
        """Float32 [P or B, V]."""
        assert self._hidden is not None, "the expert runs first"
        return self._way_out(self._hidden)

    def _way_out(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self._head(self._norm(hidden))
        return logits.float()


def _last_position(output: Any) -> Tensor:
    """[P or B, C] of a layer's output, which some models wrap in a tuple."""
    hidden: Tensor = output[0] if isinstance(output, tuple) else output
    return hidden[:, -1]


def _parts(model: Any) -> tuple[nn.ModuleList, nn.Module]:
    """(layers, final norm) of a model's decoder."""
    decoder = model.get_decoder()
    layers = next((found for name in LAYERS if (found := getattr(decoder, name, None))), None)
    norm = next((found for name in NORMS if (found := getattr(decoder, name, None))), None)
    if not isinstance(layers, nn.ModuleList) or not isinstance(norm, nn.Module):
        raise UsageError(
            f"amateur early_exit: {type(model).__name__} has no layers and final norm by the names that are known here"
        )
    return layers, norm


@torch.inference_mode()
def _check_way_out(model: Any, last: nn.Module, way_out: Any) -> None:
    """Refuse a model whose logits are not head(norm(last hidden state)): soft caps, scaled logits."""
    seen: list[Tensor] = []
    hook = last.register_forward_hook(lambda _m, _i, output: seen.append(_last_position(output)))
    ids = torch.zeros((1, 2), dtype=torch.int64, device=model.device)
    want = model(input_ids=ids, use_cache=False).logits[:, -1].float()
    hook.remove()
    if not torch.allclose(way_out(seen[0]), want, rtol=1e-2, atol=1e-2 * float(want.std())):
        raise UsageError(
            f"amateur early_exit: {type(model).__name__} does more than norm and projection to its last layer, "
            "so a middle layer cannot be read in the same way"
        )
