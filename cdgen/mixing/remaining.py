"""What a mix is after documents were taken out of it: counted anew, since no rule chose what is left."""

from dataclasses import replace

import numpy as np

from cdgen.shards.manifest import Mix, MixPart


def remaining_mix(
    mix: Mix, source_D: np.ndarray, num_tokens_D: np.ndarray, use_D: np.ndarray
) -> Mix:
    """The manifest's word on the documents that are left, in their order.

    The bound that the order was made by does not hold for what is left of it: `error_low` and `error_high` become the
    smallest and the largest error that is there at a document boundary, before the first document included.

    Args:
        mix: of the whole order.
        source_D: names of the documents' sources.
        num_tokens_D: their tokens, int64.
        use_D: which use of its sample a document is, from 1, int64.
    """
    unit_D = num_tokens_D if mix.unit == "tokens" else np.ones_like(num_tokens_D)
    parts = tuple(
        _part(part, source_D == part.source, num_tokens_D, use_D, unit_D) for part in mix.parts
    )
    is_real_D = source_D == "real"
    num_units = max(int(unit_D.sum()), 1)
    return replace(
        mix,
        realised=int(unit_D[~is_real_D].sum()) / num_units,
        num_real_tokens=int(num_tokens_D[is_real_D].sum()),
        num_synthetic_tokens=int(num_tokens_D[~is_real_D].sum()),
        parts=parts,
    )


def _part(
    part: MixPart,
    is_its_D: np.ndarray,
    num_tokens_D: np.ndarray,
    use_D: np.ndarray,
    unit_D: np.ndarray,
) -> MixPart:
    error_D = np.cumsum(unit_D * is_its_D) - part.nominal * np.cumsum(unit_D)
    return replace(
        part,
        realised=int(unit_D[is_its_D].sum()) / max(int(unit_D.sum()), 1),
        num_documents=int(is_its_D.sum()),
        num_tokens=int(num_tokens_D[is_its_D].sum()),
        num_passes=int(use_D[is_its_D].max(initial=0)),
        error_low=float(error_D.min(initial=0.0)),
        error_high=float(error_D.max(initial=0.0)),
    )
