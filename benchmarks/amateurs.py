"""What each kind of amateur costs: tokens drawn per second beside the expert alone, in one run.

    python benchmarks/amateurs.py [--layers 6 --hidden 256 --vocab 8192 --rows 128 --dtype float32]

Random weights with a head of about ten tokens; steps are timed in the middle of rows of 20 + 400 tokens, where the
attention is as long as it is on average. Rounds alternate between the kinds, and each kind's best round counts, so
that what else the machine does disturbs all alike.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from cdgen.decode import ngram
from cdgen.decode.amateurs.opening import open_pair
from cdgen.decode.engine import Engine
from cdgen.recipes.schema import (
    Amateur,
    Decode,
    DropoutAmateur,
    EarlyExitAmateur,
    ModelAmateur,
    ModelTraining,
    NgramAmateur,
    NoAmateur,
    QuantizedAmateur,
    TemperatureAmateur,
    TruncatedContextAmateur,
)
from cdgen.training.pretrain import Vocabulary, new_model

HALF, COMPLETIONS, STEPS = 220, 8, 6
NGRAM_TOKENS = 2_000_000


def kinds(layers: int) -> dict[str, Amateur]:
    """By the name in the table."""
    given = Path("model")
    return {
        "none": NoAmateur(kind="none"),
        "temperature": TemperatureAmateur(kind="temperature", temperature=1.5),
        "early_exit": EarlyExitAmateur(kind="early_exit", layer=layers // 2),
        "ngram, order 3": NgramAmateur(kind="ngram", order=3),
        "model, half as deep and wide": ModelAmateur(kind="model", path=given),
        "quantized": QuantizedAmateur(kind="quantized", bits=8),
        "truncated_context, prefix_tokens 1": TruncatedContextAmateur(
            kind="truncated_context", prefix_tokens=1
        ),
        "truncated_context, tokens 8": TruncatedContextAmateur(kind="truncated_context", tokens=8),
        "dropout": DropoutAmateur(kind="dropout", attention=0.7),
    }


def write_models(options: argparse.Namespace, home: Path) -> None:
    """An expert, a smaller model and n-gram counts, all random."""
    vocabulary = Vocabulary(size=options.vocab, bos_id=0, eos_id=1)
    for name, part in (("expert", 1), ("model", 2)):
        hidden = options.hidden // part
        spec = ModelTraining(
            layers=options.layers // part,
            hidden=hidden,
            heads=max(1, hidden // 64),
            kv_heads=max(1, hidden // 64),
            ffn=4 * hidden,
            seed=part,
        )
        model = new_model(spec, vocabulary)
        with torch.no_grad():
            model.lm_head.weight.mul_(10.0)  # heads as a trained model's, not the whole vocabulary
        model.save_pretrained(home / name)
    zipf = np.random.default_rng(0).zipf(1.2, NGRAM_TOKENS) % options.vocab
    ngram.save(ngram.count(zipf, 3), home / "ngram")


def open_engine(spec: Amateur, options: argparse.Namespace, home: Path) -> Engine:
    """The expert alone inside its head without an amateur, contrastive with one."""
    folder = {"ngram": home / "ngram", "model": home / "model"}.get(spec.kind)
    expert, amateur = open_pair(
        spec,
        expert=home / "expert",
        amateur=folder,
        weights_dtype=options.dtype,
        cache_dtype="float32",
        devices=(options.device, options.device),
    )
    decode = Decode(method="head_only") if amateur is None else Decode()
    return Engine(expert, amateur, decode, new_tokens=STEPS)


def seconds_per_step(engine: Engine, options: argparse.Namespace) -> float:
    """Of the steps after the prefix."""
    rng = np.random.default_rng(1)
    prefix_PT = rng.integers(0, options.vocab, (options.rows // COMPLETIONS, HALF))
    uniforms_BT = rng.random((options.rows, STEPS))
    ticks: list[float] = []
    engine.decode(prefix_PT, uniforms_BT, on_step=lambda _: ticks.append(time.perf_counter()))
    return min(np.diff(ticks))


def main() -> None:
    """Print the table, and JSON with --json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in {"layers": 6, "hidden": 256, "vocab": 8192, "rows": 128}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as home:
        write_models(options, Path(home))
        engines = {
            name: open_engine(spec, options, Path(home))
            for name, spec in kinds(options.layers).items()
        }
        best = dict.fromkeys(engines, float("inf"))
        for _ in range(options.rounds):
            for name, engine in engines.items():
                best[name] = min(best[name], seconds_per_step(engine, options))
    plain = best["none"]
    for name, seconds in best.items():
        print(f"{name:36} {options.rows / seconds:8,.0f} tokens/s  {seconds / plain:5.2f} x")
    if options.json:
        rates = {name: options.rows / seconds for name, seconds in best.items()}
        options.json.write_text(
            json.dumps({"options": str(options), "tokens_per_s": rates}, indent=1)
        )


if __name__ == "__main__":
    main()
