"""SPDX licence ids and expressions, spelt as the SPDX list spells them.

The list comes with `packaging`. Matching it exactly keeps one licence one string: in digests, in samples, on the Hub.
"""

import difflib
import re

import packaging.licenses
from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

MAX_LICENSE_CHARACTERS = 200

_REFERENCE = re.compile(r"LicenseRef-[A-Za-z0-9.-]+")
_WORDS = ("AND", "OR", "WITH")


def check_license(text: str) -> str:
    """`text` itself, if it is an SPDX id, an expression of ids (AND, OR, WITH), or LicenseRef-….

    Raises:
        ValueError: it is not, with the nearest one that is.
    """
    if len(text) > MAX_LICENSE_CHARACTERS:
        raise ValueError(
            f"must have at most {MAX_LICENSE_CHARACTERS} characters, found {len(text)}"
        )
    canonical = _canonical(text)
    if canonical and canonical == text:
        return text
    near = canonical or _nearest(text) or _nearest("-".join(text.split()))
    if near:
        raise ValueError(f"{text!r} is not an SPDX licence id (did you mean {near!r}?)")
    raise ValueError(
        f"{text!r} is not an SPDX licence id: see https://spdx.org/licenses, or name your own as LicenseRef-… "
        "(letters, digits, dots and hyphens)"
    )


def _canonical(text: str) -> str:
    """The list's spelling; "" for what is not a licence."""
    try:
        return str(canonicalize_license_expression(text))
    except InvalidLicenseExpression:
        return ""


def _nearest(text: str) -> str:
    """The nearest licence or expression, word by word; "" when there is none."""
    words = re.findall(r"[()]|[^\s()]+", text)
    changed = " ".join(_nearest_word(word) for word in words).replace("( ", "(").replace(" )", ")")
    return _canonical(changed)


def _nearest_word(word: str) -> str:
    if _canonical(word) or word in "()" or word.upper() in _WORDS:
        return word
    if word.lower().startswith("licenseref"):
        named = re.sub(r"[^A-Za-z0-9.]+", "-", word[len("LicenseRef") :]).strip("-")
        return f"LicenseRef-{named}"
    known = _ids()
    longer = [key for key in known if key.startswith(f"{word.lower()}-")]
    if len(longer) == 1:
        return known[longer[0]]
    near = difflib.get_close_matches(word.lower(), known, n=1, cutoff=0.7)
    return known[near[0]] if near else word


def _ids() -> dict[str, str]:
    """The list's ids by their lower-case form; empty where a later `packaging` keeps it elsewhere."""
    tables = (getattr(packaging.licenses, name, {}) for name in ("LICENSES", "EXCEPTIONS"))
    return {key: entry["id"] for table in tables for key, entry in table.items()}
