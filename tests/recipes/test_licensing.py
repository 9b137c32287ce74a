"""Which licence follows from others, and where a person must decide."""

import itertools

import pytest

from cdgen.recipes.licenses import check_license
from cdgen.recipes.licensing import HUB_IDS, NO_CONDITIONS, Part, Ruling, ruling


def of(*licenses: str | None) -> Ruling:
    """The ruling on texts a, b, … under these licences."""
    names = "abcdef"
    return ruling(Part(names[i], one) for i, one in enumerate(licenses))


@pytest.mark.parametrize(
    ("licenses", "result"),
    [
        (["CC-BY-4.0"], "CC-BY-4.0"),
        (["CC-BY-4.0", "CC0-1.0", "LicenseRef-public-domain"], "CC-BY-4.0"),
        (["LicenseRef-public-domain"], "LicenseRef-public-domain"),
        (["CC0-1.0", "LicenseRef-public-domain"], "CC0-1.0"),
        (["MIT", "Apache-2.0", "CC-BY-4.0"], "Apache-2.0 AND CC-BY-4.0 AND MIT"),
        (["CC-BY-SA-4.0", "MIT", "CC0-1.0"], "CC-BY-SA-4.0"),
        (["CC-BY-SA-3.0", "CC-BY-SA-4.0"], "CC-BY-SA-4.0"),
        (["CC-BY-NC-4.0", "MIT"], "CC-BY-NC-4.0 AND MIT"),
        (["CC-BY-NC-SA-4.0", "CC-BY-NC-4.0"], "CC-BY-NC-SA-4.0"),
        (["Apache-2.0 WITH LLVM-exception", "MIT AND CC-BY-4.0"], "Apache-2.0 AND CC-BY-4.0 AND MIT"),
    ],
)  # fmt: skip
def test_what_follows(licenses: list[str], result: str) -> None:
    for order in itertools.permutations(licenses):
        assert of(*order) == Ruling(result)


@pytest.mark.parametrize(
    ("licenses", "why"),
    [
        (["MIT", None], "b has no licence"),
        (["LicenseRef-ours"], "a is under LicenseRef-ours, whose terms cdgen does not know"),
        (["MIT OR Apache-2.0"], "a may be used under MIT OR Apache-2.0: choose one of them"),
        (["CC-BY-ND-4.0"], "a is under CC-BY-ND-4.0, which allows no derived works"),
        (["CC-BY-NC-ND-4.0"], "a is under CC-BY-NC-ND-4.0, which allows no derived works"),
        (["CC-BY-SA-4.0", "CDLA-Sharing-1.0"], "a is under CC-BY-SA-4.0 and b under CDLA-Sharing-1.0"),
        (["CC-BY-SA-4.0", "CC-BY-NC-4.0"], "a is under CC-BY-SA-4.0 and b under CC-BY-NC-4.0"),
        (["CC-BY-SA-4.0", "CC-BY-NC-SA-4.0"], "b is under CC-BY-NC-SA-4.0 and a under CC-BY-SA-4.0"),
    ],
)  # fmt: skip
def test_where_a_person_must_decide(licenses: list[str | None], why: str) -> None:
    found = of(*licenses)

    assert found.license == ""
    assert [problem.removesuffix(", which cannot both hold") for problem in found.problems] == [why]


def test_every_problem_is_named_once() -> None:
    assert len(ruling([Part("a", None), Part("a", None), Part("b", "CC-BY-ND-4.0")]).problems) == 2


@pytest.mark.parametrize("one", sorted({*HUB_IDS, *NO_CONDITIONS}))
def test_the_tables_hold_spdx_ids(one: str) -> None:
    assert check_license(one) == one
