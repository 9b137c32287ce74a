"""Everything that only a GPU can show, in one command of a few minutes: is it right, and how fast is it.

    PYTHONPATH=. python benchmarks/gpu_check.py --json gpu_check.json            # an H200: the paper's 12 x 768 models
    PYTHONPATH=. python benchmarks/gpu_check.py --device cpu --tiny              # the same code on a CPU, in seconds

Needs torch, transformers and numpy alone, besides cdgen's own folder. In this order, so that a run cut short has
already said what matters most; the JSON is rewritten after every part:

    draw        the draw kernel against sampling.draw: tokens differ only at CDF boundaries
    attention   the attention kernel against masked attention over the same slots
    loop        fp32: the replayed graph, the same launches one by one, and the eager loop. A replay gives the launches'
                bits, run after run, and every token lies in its CDF interval by transformers' own full forward
    bfloat16    score error of bf16 weights and cache against that forward, by quantile
    rates       bytes per second that a read reaches, and the time of one step's matrix products by rows
    speed       tokens per second of contrastive decoding by rows, beside the floor from those rates, plain sampling,
                and the loop without its graph; and where a step's time goes, by kernel

Exit status 1 when a check fails. Weights are random, with an output head scaled to a trained model's sharpness; the
mean head size is in the JSON.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from cdgen.decode import contrast, graphs, reference, sampling
from cdgen.decode.attention import Geometry, Slots
from cdgen.decode.contrast import Rule
from cdgen.decode.engine import Engine, Rows
from cdgen.decode.llama import LlamaModel

FP32_ERROR = 1e-4
"""Nats by which float32 scores of two code paths may differ."""


class Sizes:
    """What is run: the GPU standard, or something that a CPU does in seconds."""

    def __init__(self, *, tiny: bool) -> None:
        self.tiny = tiny
        self.layers, self.hidden, self.heads = (2, 32, 4) if tiny else (12, 768, 12)
        self.vocab = 515 if tiny else 32_000
        self.prefix_tokens, self.new_tokens = (5, 6) if tiny else (20, 400)
        self.completions = 2 if tiny else 8
        self.check_rows = 4 if tiny else 64
        self.check_tokens = 6 if tiny else 100
        self.rows = (4, 8) if tiny else (128, 512, 1024, 2048, 4096)

    def config(self) -> LlamaConfig:
        """Of expert and amateur alike."""
        return LlamaConfig(
            vocab_size=self.vocab,
            hidden_size=self.hidden,
            intermediate_size=4 * self.hidden,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.heads,
            max_position_embeddings=1024,
        )


def main() -> None:
    """Run the parts, print a line for each and write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="models that a CPU runs in seconds")
    parser.add_argument("--json", type=Path, help="where the numbers go")
    parser.add_argument("--parts", nargs="+", default=[*PARTS], choices=[*PARTS])
    parser.add_argument("--rows", nargs="+", type=int, help="rows of the speed part")
    options = parser.parse_args()
    sizes, device = Sizes(tiny=options.tiny), torch.device(options.device)
    sizes.rows = tuple(options.rows or sizes.rows)
    if device.type == "cpu":
        torch.set_num_threads(1)
    found: dict[str, Any] = {"machine": _machine(device), "failed": []}
    for part in options.parts:
        started = time.perf_counter()
        found[part] = PARTS[part](sizes, device, found)
        found[part]["seconds"] = time.perf_counter() - started
        if not found[part].get("ok", True):
            found["failed"].append(part)
        print(f"{part}: {json.dumps(found[part])}", flush=True)
        if options.json:
            options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    if found["failed"]:
        sys.exit(f"failed: {', '.join(found['failed'])}")


def _machine(device: torch.device) -> dict[str, Any]:
    import transformers

    facts: dict[str, Any] = {"torch": torch.__version__, "transformers": transformers.__version__}
    if graphs.has_triton():
        import triton

        facts["triton"] = triton.__version__
    facts["device"] = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return facts


def decode_part(**changes: Any) -> Any:
    """A recipe's decode part without the recipe's own schema, which needs pydantic."""
    usual = {
        "method": "contrastive", "lambda_": 1.0, "alpha": 0.1, "temperature": 1.0, "score_temperature": 1.0,
        "top_k": None, "top_p": None, "no_repeat_ngram": None, "outside_head": "-inf", "log_epsilon": 0.0,
        "models": None, "further": (),
    }  # fmt: skip
    return SimpleNamespace(**(usual | changes))


def pair(sizes: Sizes, device: torch.device) -> tuple[LlamaForCausalLM, LlamaForCausalLM]:
    """Expert and amateur in float32: the amateur is the expert with noise on its weights and a flatter head."""
    made = torch.Generator(device="cpu").manual_seed(0)
    expert = LlamaForCausalLM(sizes.config())
    amateur = LlamaForCausalLM(sizes.config())
    with torch.no_grad():
        for strong, weak in zip(expert.parameters(), amateur.parameters(), strict=True):
            if strong.dim() > 1:
                strong.copy_(torch.randn(strong.shape, generator=made) * strong.shape[1] ** -0.5)
                noise = torch.randn(strong.shape, generator=made) * strong.shape[1] ** -0.5
                weak.copy_(0.9 * strong + 0.4 * noise)
        expert.lm_head.weight.mul_(3.0)
        amateur.lm_head.weight.mul_(2.0)
    return tuple(torch.nn.Module.to(model, device).eval() for model in (expert, amateur))


def engine_of(
    models: tuple[LlamaForCausalLM, ...], *, new_tokens: int, dtype: torch.dtype, **decode: Any
) -> Engine:
    """On the path that a GPU takes; on a CPU the same loop without a graph."""
    fast = []
    for model in models:
        cast_to = LlamaForCausalLM(model.config)
        cast_to.load_state_dict(model.state_dict())
        torch.nn.Module.to(cast_to, device=model.device, dtype=dtype)
        fast.append(LlamaModel(cast_to.eval(), cache_dtype=dtype, paged=False))
    engine = Engine(
        fast[0], fast[1] if len(fast) > 1 else None, decode_part(**decode), new_tokens=new_tokens
    )
    engine.replays = True
    return engine


def given(sizes: Sizes, rows: int, new_tokens: int) -> tuple[Any, Any]:
    """Prefixes and uniforms of a batch."""
    random = np.random.default_rng(0)
    prefix_PT = random.integers(0, sizes.vocab, (rows // sizes.completions, sizes.prefix_tokens))
    return prefix_PT, random.random((rows, new_tokens))


# ------------------------------------------------------------------ right


def check_draw(sizes: Sizes, device: torch.device, _found: dict[str, Any]) -> dict[str, Any]:
    """The kernel against `sampling.draw`, in float32 and bfloat16, for small heads and flat ones."""
    if device.type != "cuda":
        return {"skipped": "needs a GPU; tests/decode/test_draw_kernel.py interprets it"}
    from cdgen.decode import draw_kernel

    made = torch.Generator(device=device).manual_seed(0)
    rows, out, ok = 512, {}, True
    rules = {
        "contrastive": Rule(),
        "flat": Rule(alpha=1e-4, lam=0.5, temperature=0.9, score_temperature=1.2),
        "epsilon": Rule(epsilon=1e-10),
        "head_only": Rule(method="head_only"),
        "sample": Rule(method="sample"),
    }
    for name, rule in rules.items():
        for dtype in (torch.float32, torch.bfloat16):
            shape = (rows, sizes.vocab)
            expert_BV, amateur_BV = (
                (torch.randn(shape, generator=made, device=device) * scale).to(dtype)
                for scale in (3.0, 2.0)
            )
            uniform_B = torch.rand(rows, generator=made, device=device, dtype=torch.float64)
            got = draw_kernel.draw(expert_BV, amateur_BV, uniform_B, rule)
            again = draw_kernel.draw(expert_BV, amateur_BV, uniform_B, rule)
            want = sampling.draw(expert_BV.float(), amateur_BV.float(), uniform_B, rule)
            score_BV = contrast.scores(expert_BV.float(), amateur_BV.float(), rule)
            far = outside(score_BV, got.token_B, uniform_B, error=FP32_ERROR)
            fine = (
                far == 0
                and torch.equal(got.head_size_B, want.head_size_B)
                and torch.equal(got.token_B, again.token_B)
                and torch.equal(got.logp_expert_B, again.logp_expert_B)
            )
            ok = ok and bool(fine)
            out[f"{name} {dtype}"] = {
                "ok": bool(fine),
                "other_tokens": int((got.token_B != want.token_B).sum()),
                "outside_interval": far,
                "mean_head": float(got.head_size_B.double().mean()),
            }
    return {"ok": ok, "rows": rows, "rules": out}


def outside(score_BV: Tensor, token_B: Tensor, uniform_B: Tensor, *, error: float) -> int:
    """How many uniforms lie outside their token's CDF interval, widened by `error`."""
    begin, end = reference.cdf_interval(score_BV.unsqueeze(1), token_B.unsqueeze(1))
    low, high = begin.squeeze(1) - error, end.squeeze(1) + error
    return int(((uniform_B < low) | (uniform_B >= high)).sum())


def check_attention(sizes: Sizes, device: torch.device, _found: dict[str, Any]) -> dict[str, Any]:
    """The kernel against `graphs.attend_masked`, at short, long and windowed positions, with and without groups."""
    fused = device.type == "cuda"
    size = 16 if sizes.tiny else 64
    worst: dict[str, float] = {}
    length = sizes.prefix_tokens + sizes.new_tokens
    for dtype in (torch.float32, torch.bfloat16):
        for window, heads, completions in ((None, 12, sizes.completions), (7, 12, 2), (None, 4, 1)):
            geometry = Geometry(
                rows=4 * completions, prefixes=4, prefix_tokens=sizes.prefix_tokens, length=length,
                heads=12, kv_heads=heads, head_size=size, dtype=dtype, device=device,
            )  # fmt: skip
            made = torch.Generator(device=device).manual_seed(0)
            caches = [Slots(geometry, window=window) for _ in range(2)]
            for number, name in enumerate(
                ("own_keys", "own_values", "prefix_keys", "prefix_values")
            ):
                made.manual_seed(number)
                first = getattr(caches[0], name)
                first.copy_(torch.randn(first.shape, generator=made, device=device))
                getattr(caches[1], name).copy_(first)
            for position in (sizes.prefix_tokens, (sizes.prefix_tokens + length) // 2, length - 1):
                here = torch.tensor([position], device=device)
                query, key, value = (
                    torch.randn((geometry.rows, count, size), generator=made, device=device)
                    for count in (12, heads, heads)
                )
                got = graphs.Here(here, fused=fused).attend(caches[0], query * 0.3, key, value)
                want = graphs.attend_masked(caches[1], query * 0.3, key, value, here)
                case = f"{dtype} window {window} kv {heads}"
                worst[case] = max(worst.get(case, 0.0), float((got.float() - want).abs().max()))
            same = torch.equal(caches[0].own_keys, caches[1].own_keys)
            worst[f"{dtype} window {window} kv {heads} cache differs"] = 0.0 if same else math.inf
    return {"ok": max(worst.values()) < 1e-4, "fused": fused, "worst": worst}


def check_loop(sizes: Sizes, device: torch.device, _found: dict[str, Any]) -> dict[str, Any]:
    """Float32: replay, the same launches one by one, the eager loop, and the teacher-forced reference."""
    torch.backends.cuda.matmul.allow_tf32 = False
    models = pair(sizes, device)
    batch = given(sizes, sizes.check_rows, sizes.check_tokens)
    found: dict[str, Any] = {"ok": True}
    for name, decode in (
        ("contrastive", {}),
        ("sample", {"method": "sample"}),
        ("top_p", {"top_p": 0.9}),
    ):
        engine = engine_of(models, new_tokens=sizes.check_tokens, dtype=torch.float32, **decode)
        path = engine.path
        replayed = engine.decode(*batch)
        again = engine.decode(*batch)
        launched = without_graph(engine).decode(*batch)
        engine.replays = False
        eager = engine.decode(*batch)
        far = far_from_reference(models, batch, replayed, engine.rule, error=FP32_ERROR * 10)
        entry = {
            "path": path,
            "run_after_run": same_bits(replayed, again),
            "replay_is_launches": same_bits(replayed, launched),
            "eager_agreement": float((replayed.ids_BT == eager.ids_BT).mean()),
            "outside_interval": far,
            "mean_head": float(replayed.head_size_BT.mean()),
        }
        found["ok"] &= bool(entry["run_after_run"] and entry["replay_is_launches"] and far == 0)
        found[name] = entry
    return found


def without_graph(engine: Engine) -> Engine:
    """The static loop from now on without replay."""
    memory = engine._memory  # noqa: SLF001
    assert memory is not None and memory.loop is not None
    memory.loop.graph, memory.loop._captured = False, None  # noqa: SLF001
    return engine


def same_bits(one: Rows, other: Rows) -> bool:
    """True when tokens and records are equal, bit for bit."""
    names = ("ids_BT", "logp_expert_BT", "logp_amateur_BT", "head_size_BT")
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in names)


def replays(
    models: tuple[LlamaForCausalLM, ...], batch: tuple[Any, Any], out: Rows, rule: Rule
) -> Any:
    """(rows of `out`, what transformers' full float32 forward says of them), a few rows at a time."""
    completions = len(out.ids_BT) // len(batch[0])
    ids_BT = np.concatenate([batch[0].repeat(completions, axis=0), out.ids_BT], axis=1)
    amateur = models[1] if len(models) > 1 else None
    for first in range(0, len(ids_BT), 4):
        rows = slice(first, first + 4)
        yield (
            rows,
            reference.replay(
                models[0], amateur, ids_BT[rows], prefix_tokens=batch[0].shape[1], rule=rule
            ),
        )


def far_from_reference(
    models: tuple[LlamaForCausalLM, ...],
    batch: tuple[Any, Any],
    out: Rows,
    rule: Rule,
    *,
    error: float,
) -> int:
    """Tokens whose uniform lies outside their CDF interval, widened by `error`."""
    far = 0
    for rows, replay in replays(models, batch, out, rule):
        token_BT = torch.from_numpy(out.ids_BT[rows]).long()
        begin, end = reference.cdf_interval(replay.score_BTV, token_BT)
        uniform_BT = torch.from_numpy(batch[1][rows])
        far += int(((uniform_BT < begin - error) | (uniform_BT >= end + error)).sum())
    return far


def check_bfloat16(sizes: Sizes, device: torch.device, _found: dict[str, Any]) -> dict[str, Any]:
    """Error of recorded log-probabilities in bf16, against the float32 forward over the same tokens."""
    models = pair(sizes, device)
    batch = given(sizes, sizes.check_rows, sizes.check_tokens)
    engine = engine_of(models, new_tokens=sizes.check_tokens, dtype=torch.bfloat16)
    out = engine.decode(*batch)
    errors: dict[str, list[Tensor]] = {"expert": [], "amateur": []}
    inside = 0
    for rows, replay in replays(models, batch, out, engine.rule):
        index = torch.from_numpy(out.ids_BT[rows]).long().unsqueeze(-1)
        inside += int(replay.head_BTV.gather(-1, index).sum())
        for name, those in errors.items():
            logp_BT = getattr(replay, f"logp_{name}_BTV").gather(-1, index).squeeze(-1)
            got = torch.from_numpy(getattr(out, f"logp_{name}_BT")[rows])
            those.append((got - logp_BT).abs().flatten())
    quantiles = {
        name: {str(q): float(torch.cat(found).quantile(q)) for q in (0.5, 0.9, 0.99, 1.0)}
        for name, found in errors.items()
    }
    share = inside / out.ids_BT.size
    median = max(found["0.5"] for found in quantiles.values())
    return {"ok": share > 0.9 and median < 0.1, "nats": quantiles, "in_fp32_head": share}


# ------------------------------------------------------------------ fast


def seconds_of(work: Callable[[], Any], device: torch.device, *, repeats: int = 5) -> float:
    """Best of a few runs, after one to warm up."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    work()
    best = math.inf
    for _ in range(repeats):
        wait()
        started = time.perf_counter()
        work()
        wait()
        best = min(best, time.perf_counter() - started)
    return best


def measure_rates(sizes: Sizes, device: torch.device, _found: dict[str, Any]) -> dict[str, Any]:
    """The rates that the floor is made of: reads of large tensors, and the products of one step by rows."""
    megabytes = 8 if sizes.tiny else 4096
    big = torch.zeros(megabytes * 2**20, dtype=torch.int8, device=device)
    words = big.view(torch.int64)
    read = big.numel() / seconds_of(words.sum, device)
    dtype = torch.bfloat16
    shapes = [(3 * sizes.hidden, sizes.hidden), (sizes.hidden, sizes.hidden)]
    shapes += [(8 * sizes.hidden, sizes.hidden), (sizes.hidden, 4 * sizes.hidden)]
    products = {}
    for rows in sizes.rows:
        weights = [torch.zeros(shape, dtype=dtype, device=device).normal_() for shape in shapes]
        inputs = [
            torch.zeros(rows, w.shape[1], dtype=dtype, device=device).normal_() for w in weights
        ]
        head = torch.zeros(sizes.vocab, sizes.hidden, dtype=dtype, device=device).normal_()

        def layers(weights: Any = weights, inputs: Any = inputs) -> None:
            for _ in range(sizes.layers):
                for x, weight in zip(inputs, weights, strict=True):
                    torch.nn.functional.linear(x, weight)

        one = seconds_of(layers, device)
        one += seconds_of(lambda x=inputs[0], w=head: torch.nn.functional.linear(x, w), device)  # type: ignore[misc]
        products[str(rows)] = one
    return {"read_bytes_per_s": read, "products_s_per_model_and_step": products}


def measure_speed(sizes: Sizes, device: torch.device, found: dict[str, Any]) -> dict[str, Any]:
    """Tokens per second by rows, in bfloat16; a second batch is timed, so that captures are not."""
    models, out = pair(sizes, device), {}
    for rows in sizes.rows:
        try:
            entry = _speed(sizes, device, found, models, rows)
        except torch.OutOfMemoryError:
            entry = {"out_of_memory": True}
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
        out[str(rows)] = entry
        print(f"speed {rows}: {json.dumps(entry)}", flush=True)
    return out


def _speed(
    sizes: Sizes,
    device: torch.device,
    found: dict[str, Any],
    models: tuple[LlamaForCausalLM, ...],
    rows: int,
) -> dict[str, Any]:
    batch = given(sizes, rows, sizes.new_tokens)
    tokens = rows * sizes.new_tokens
    alone = engine_of(
        models[:1], new_tokens=sizes.new_tokens, dtype=torch.bfloat16, method="sample"
    )
    entry: dict[str, Any] = {"sample_alone": tokens / _second_batch(alone, batch, device)}
    del alone
    engine = engine_of(models, new_tokens=sizes.new_tokens, dtype=torch.bfloat16)
    entry["contrastive"] = tokens / _second_batch(engine, batch, device)
    entry["floor"] = _floor(sizes, rows, found)
    entry["mean_head"] = float(engine.decode(*batch).head_size_BT.mean())
    if device.type == "cuda":
        entry["peak_gib"] = torch.cuda.max_memory_allocated(device) / 2**30
    if rows in (sizes.rows[0], sizes.rows[-1]):
        entry["kernels"] = _profile(engine, batch, device)
        entry["without_graph"] = tokens / _second_batch(without_graph(engine), batch, device)
    return entry


def _second_batch(engine: Engine, batch: tuple[Any, Any], device: torch.device) -> float:
    return seconds_of(lambda: engine.decode(*batch), device, repeats=1)


def _floor(sizes: Sizes, rows: int, found: dict[str, Any]) -> float | None:
    """Tokens/s if a step took its products and the reading of its caches, each prefix read once, and nothing else."""
    rates: dict[str, Any] | None = found.get("rates")
    if rates is None:
        return None
    own = rows * (sizes.new_tokens - 1) / 2
    prefixes = rows / sizes.completions * sizes.prefix_tokens
    kept = 2 * sizes.layers * sizes.hidden * 2  # bytes per token and model, in bfloat16
    per_step = 2 * (own + prefixes) * kept / rates["read_bytes_per_s"]
    per_step += 2 * rates["products_s_per_model_and_step"][str(rows)]
    return float(rows / per_step)


def _profile(engine: Engine, batch: tuple[Any, Any], device: torch.device) -> dict[str, float]:
    """Share of the time by kernel, the 15 largest."""
    from torch.profiler import ProfilerActivity, profile

    on_gpu = device.type == "cuda"
    kinds = [ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]
    with profile(activities=kinds) as seen:
        engine.decode(*batch)
    spent = {
        event.key[:80]: event.self_device_time_total if on_gpu else event.self_cpu_time_total
        for event in seen.key_averages()
    }
    total = sum(spent.values()) or 1.0
    largest = sorted(spent.items(), key=lambda item: -item[1])[:15]
    return {name: round(value / total, 4) for name, value in largest}


PARTS: dict[str, Callable[[Sizes, torch.device, dict[str, Any]], dict[str, Any]]] = {
    "draw": check_draw,
    "attention": check_attention,
    "loop": check_loop,
    "bfloat16": check_bfloat16,
    "rates": measure_rates,
    "speed": measure_speed,
}

if __name__ == "__main__":
    main()
