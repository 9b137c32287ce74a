"""cdgen: the same tars, both sources mixed 70 to 30 by tokens and cut into blocks, shuffled by windows."""

from collections.abc import Iterator, Sequence
from typing import Any

from data import BLOCK, BLOCKS, Collate, Part

import cdgen

FORMS = (
    "blocks", "blocks_batch", "blocks_unchecked", "stream", "ids_int32", "ids_int32_batch",
)  # fmt: skip
CONVERTED = ()
RESUMES = "one number and a fingerprint"


def loader(
    part: Part, form: str, collate: Collate, *, shuffle: bool, workers: int, seed: int = 0
) -> Any:
    """Batches of 16 blocks of 2,048 tokens: input_ids and labels as int64, or input_ids alone as int32.

    Documents are compared with their hashes, as is the default; `blocks_unchecked` leaves that out.
    """
    options = {"block": BLOCK, "seed": seed, "shuffle": "windows" if shuffle else False}
    if form.startswith("ids_int32"):
        options |= {"fields": ("input_ids",), "dtype": "int32"}
    if form == "stream":
        return cdgen.stream(part.folder / "cdgen", **options).loader(BLOCKS, num_workers=workers)
    options["verify"] = form != "blocks_unchecked"
    made = cdgen.blocks(part.folder / "cdgen", **options)
    return _by_batch(made) if form.endswith("batch") else made.loader(BLOCKS, num_workers=workers)


def _by_batch(made: Any) -> Iterator[Any]:
    """No loader, no thread: the gather alone."""
    for j in range(0, len(made) - BLOCKS + 1, BLOCKS):
        yield made.batch(range(j, j + BLOCKS))


def mixed(
    parts: Sequence[Part], shares: Sequence[float], form: str, collate: Collate, *, seed: int = 0
) -> Any:
    """Per block (a number that says real or synthetic, tokens) of both sources, at the share asked for."""
    made = cdgen.blocks(
        parts[0].folder / "cdgen",
        block=BLOCK,
        seed=seed,
        synthetic=shares[1],
        fields=("input_ids", "source_ids"),
    )
    for j in range(len(made)):
        synthetic = int((made[j]["source_ids"] != 0).sum())
        yield [(0, BLOCK - synthetic), (len(parts[0].documents), synthetic)]
