"""What `cdgen diff` prints."""

from collections.abc import Iterator
from typing import Any

from cdgen.reports.difference import ABSENT, Difference, FieldDifference, GroupDifference

SHOWN_FIELDS = 40


def difference_text(found: Difference) -> str:
    """The verdict, then what differs: recipes, inputs, digests, circumstances, shares, shards and samples."""
    return "\n".join([_verdict(found), *_recipes(found), *_rest(found), *_groups(found)])


def _verdict(found: Difference) -> str:
    if found.manifests:
        same = "the same shards, byte for byte" if found.same else "different corpora"
        digests = " and ".join(digest[:16] for digest in dict.fromkeys(found.manifests))
        return f"{found.a} and {found.b}: {same} (manifest {digests})"
    return (
        f"{found.a} and {found.b}: {'build the same' if found.same else 'build different corpora'}"
    )


def _recipes(found: Difference) -> Iterator[str]:
    if found.fields:
        yield "recipe:"
    for field in found.fields[:SHOWN_FIELDS]:
        yield f"  {field.field}: {_value(field.a)} -> {_value(field.b)}{_moves(field)}"
    if len(found.fields) > SHOWN_FIELDS:
        yield f"  and {len(found.fields) - SHOWN_FIELDS} more (all of them with --json)"


def _moves(field: FieldDifference) -> str:
    return f"   moves {', '.join(field.moves)}" if field.moves else "   moves no digest"


def _value(value: Any) -> str:
    text = value if value == ABSENT else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _rest(found: Difference) -> Iterator[str]:
    for name, pair in found.inputs.items():
        yield f"text of source {name}: sha256 {_short(pair[0])} -> {_short(pair[1])}"
    if found.digests:
        yield "digests: " + ", ".join(
            f"{stage} {_short(pair[0])} -> {_short(pair[1])}"
            for stage, pair in found.digests.items()
        )
    for name, (one, two) in found.circumstances.items():
        yield f"made with {name}: {one or ABSENT} -> {two or ABSENT}"
    for name, shares in found.shares.items():
        yield f"{name} share of synthetic text: {shares[0]:.4%} -> {shares[1]:.4%}"
    yield from (f"note: {note}" for note in found.notes)


def _short(digest: str) -> str:
    return digest[:8] or ABSENT


def _groups(found: Difference) -> Iterator[str]:
    for group in found.groups:
        yield f"{group.group}: {_group(group)}"


def _group(group: GroupDifference) -> str:
    samples = group.samples
    if not (samples.changed or samples.only_a or samples.only_b):
        order = "" if group.equal_shards == max(group.shards) else ", in another order or packing"
        return f"all {samples.equal:,} samples equal{order}"
    example = f" (such as {samples.example})" if samples.example else ""
    return (
        f"{group.shards[0]} -> {group.shards[1]} shards, {group.equal_shards} of them equal; "
        f"{group.tokens[0]:,} -> {group.tokens[1]:,} tokens; samples: {samples.equal:,} equal, "
        f"{samples.changed:,} changed{example}, {samples.only_a:,} only in the first, "
        f"{samples.only_b:,} only in the second"
    )
