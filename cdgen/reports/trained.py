"""What `cdgen train` says at the end."""

from cdgen.builders.train import Trained


def trained_text(trained: Trained) -> str:
    """For people: what was read, the best checkpoint, where it is, what comes next."""
    record = trained.record
    best, last = record.best, record.checkpoints[-1]
    share = record.synthetic_share
    read = ", ".join(
        f"{source.tokens:,} {name} ({source.passes:.2f} times)"
        for name, source in record.sources.items()
        if source.tokens
    )
    facts = [
        ("run", f"{record.name}, condition {record.condition}, seed {record.seed}"),
        ("tokens", f"{record.tokens:,}: {read}"),
        (
            "synthetic share",
            f"{share.realised:.4%} of tokens, {share.asked:.4%} asked for",
        ),
        ("best", f"step {best.step}, eval perplexity {best.perplexity:.1f}"),
        (
            "last",
            f"step {last.step}, eval perplexity {last.perplexity:.1f}, {last.bits_per_byte:.3f} bits per byte",
        ),
        ("folder", f"{trained.out}, {len(record.checkpoints)} checkpoints"),
    ]
    width = max(len(name) for name, _ in facts)
    lines = [f"{name:<{width}}  {value}" for name, value in facts]
    return "\n".join(
        [*lines, f"{_end(trained)}; next: cdgen eval {trained.out / best_name(trained)}"]
    )


def best_name(trained: Trained) -> str:
    """The folder of the best checkpoint."""
    return trained.record.folder(trained.out, trained.record.best.step).name


def _end(trained: Trained) -> str:
    if trained.was_finished:
        return "was finished already"
    if not trained.resumed_from:
        speed = trained.record.tokens / max(trained.seconds, 1e-9)
        return f"trained in {trained.seconds:.0f} s, {speed:,.0f} tokens/s"
    return f"finished from step {trained.resumed_from} on, in {trained.seconds:.0f} s"
