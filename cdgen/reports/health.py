"""Contrast health in one line."""

from cdgen.builders.preflight import Measured


def health_text(seen: Measured) -> str:
    """What a preflight saw."""
    facts = [f"loss {seen.expert_nats:.3f} nats (expert)"]
    if seen.amateur_nats is not None and seen.gap_nats is not None and seen.kl_nats is not None:
        facts[0] += f", {seen.amateur_nats:.3f} (amateur)"
        facts += [f"gap {seen.gap_nats:+.3f}", f"KL {seen.kl_nats:.3f}"]
    facts += [
        f"{seen.moved:.0%} of draws moved",
        f"heads {seen.mean_head_size:.1f} tokens, {seen.head_of_one_share:.0%} of one",
        f"repetition {seen.repetition:.0%}, loops {seen.loop_share:.0%}, clones {seen.clone_share:.0%}",
    ]
    return "; ".join(facts)
