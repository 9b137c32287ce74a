"""A licence is one string: the SPDX list's own spelling."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small import SMALL_RECIPE

from cdgen.errors import UsageError
from cdgen.recipes.licenses import check_license
from cdgen.recipes.load import load_recipe

GOOD = [
    "MIT", "Apache-2.0", "CC-BY-4.0", "CDLA-Sharing-1.0", "LicenseRef-public-domain", "LicenseRef-x.1",
    "MIT OR Apache-2.0", "GPL-2.0-only WITH Classpath-exception-2.0", "(MIT OR CC0-1.0) AND ODC-By-1.0",
]  # fmt: skip


@pytest.mark.parametrize("text", GOOD)
def test_what_spdx_knows_is_kept_as_it_is(text: str) -> None:
    assert check_license(text) == text


NEAR = [
    ("apache-2.0", "Apache-2.0"),
    ("Apache 2.0", "Apache-2.0"),
    ("CC-BY-SA-4", "CC-BY-SA-4.0"),
    ("cc by 4.0", "CC-BY-4.0"),
    ("CC0", "CC0-1.0"),
    ("ODC-BY-1.0", "ODC-By-1.0"),
    ("mit or apache-2", "MIT OR Apache-2.0"),
    ("(MIT)and(Apache-2.0)", "(MIT) AND (Apache-2.0)"),
    ("GPL-2.0-only with classpath-exception", "GPL-2.0-only WITH Classpath-exception-2.0"),
    ("licenseref-mine", "LicenseRef-mine"),
    ("LicenseRef-my_own text", "LicenseRef-my-own-text"),
    ("MIT ", "MIT"),
]


@pytest.mark.parametrize(("text", "near"), NEAR)
def test_a_near_miss_is_answered_with_the_right_spelling(text: str, near: str) -> None:
    """And that spelling is accepted."""
    with pytest.raises(ValueError, match=re.escape(f"(did you mean {near!r}?)")):
        check_license(text)

    assert check_license(near) == near


@pytest.mark.parametrize("text", ["", " ", "proprietary", "public domain", "((", "LicenseRef-"])
def test_what_is_no_licence_is_told_where_to_look(text: str) -> None:
    with pytest.raises(
        ValueError, match=r"is not an SPDX licence id: see https://spdx.org/licenses"
    ):
        check_license(text)


@given(st.text(max_size=60) | st.text(alphabet="()MITandORwith LicenseRef-+.", max_size=250))
def test_any_text_is_a_licence_or_one_valueerror(text: str) -> None:
    """Whatever is accepted is accepted unchanged."""
    message = ""
    try:
        assert check_license(text) == text
    except ValueError as error:
        message = str(error)

    assert "\n" not in message


def test_a_wrong_licence_in_a_recipe_is_named_with_its_place(tmp_path: Path) -> None:
    """file:line:column, the field and the right spelling."""
    file = tmp_path / "r.yaml"
    file.write_text(SMALL_RECIPE.replace("Apache-2.0", "apache-2.0"), encoding="utf-8")

    with pytest.raises(UsageError) as caught:
        load_recipe(file)

    assert str(caught.value) == (
        f"{file}:6:83: text.sources[0].license: 'apache-2.0' is not an SPDX licence id (did you mean 'Apache-2.0'?)"
    )
