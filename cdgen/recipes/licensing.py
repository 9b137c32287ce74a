"""Which licence a corpus may be published under, from those of its texts, models and tokenizer.

The rules are coarse and careful, and no legal advice: they stop where a person should look.

- no conditions (public domain, CC0, MIT-0 …): allows everything;
- attribution (CC-BY, MIT, Apache-2.0 …): goes with everything, and stays in the result;
- share-alike (CC-BY-SA, ODbL, GPL …): the result is that licence; two different ones conflict;
- non-commercial (CC-BY-NC): stays in the result; conflicts with a share-alike licence that allows commerce;
- no derivatives, unknown terms (LicenseRef-…), a choice (OR), or nothing said: a person must decide.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cdgen.recipes.schema import ModelAmateur, Recipe

NO_CONDITIONS = frozenset(
    {"CC0-1.0", "PDDL-1.0", "Unlicense", "0BSD", "MIT-0", "CC-PDDC", "CC-PDM-1.0", "LicenseRef-public-domain"}
)  # fmt: skip
_ATTRIBUTION = re.compile(
    r"MIT|ISC|Apache-2\.0|BSD-[23]-Clause|CC-BY-\d\.\d|ODC-By-1\.0|CDLA-Permissive-[12]\.0|OGL-UK-\d\.0|BSL-1\.0|Zlib"
)
_SHARE_ALIKE = re.compile(
    r"CC-BY-SA-\d\.\d|ODbL-1\.0|CDLA-Sharing-1\.0|GFDL-[\w.-]+|L?GPL-[\w.-]+|AGPL-[\w.-]+|MPL-2\.0|EUPL-1\.\d"
)
_NON_COMMERCIAL = re.compile(r"CC-BY-NC-\d\.\d")
_NON_COMMERCIAL_SHARE_ALIKE = re.compile(r"CC-BY-NC-SA-\d\.\d")
_NO_DERIVATIVES = re.compile(r"CC-BY(-NC)?-ND-\d\.\d")


@dataclass(frozen=True, slots=True)
class Part:
    """Something that a corpus is made of: what it is called in messages, and its licence; None = not said."""

    what: str
    license: str | None


@dataclass(frozen=True, slots=True)
class Ruling:
    """The licence of the whole, as an SPDX expression, and why it cannot be told (then the licence is "")."""

    license: str
    problems: tuple[str, ...] = ()


def parts_of(recipe: Recipe) -> list[Part]:
    """What a recipe's corpus is made of. What is trained here follows the texts, and is not named."""
    found = [Part(f"the source {source.name}", source.license) for source in recipe.text.sources]
    if recipe.tokenizer is not None and recipe.tokenizer.train is None:
        found.append(Part("the tokenizer", recipe.tokenizer.license))
    if recipe.expert.train is None:
        found.append(Part("the expert", recipe.expert.license))
    if isinstance(recipe.amateur, ModelAmateur) and recipe.amateur.train is None:
        found.append(Part("the amateur", recipe.amateur.license))
    found += [
        Part(f"the model decode.models[{number}]", model.license)
        for number, model in enumerate(recipe.decode.models or ())
        if model.path is not None or model.hf is not None
    ]
    return found


def ruling(parts: Iterable[Part]) -> Ruling:
    """The licence of a corpus made of these parts."""
    parts = list(parts)
    problems = [problem for part in parts if (problem := _problem(part))]
    if problems:
        return Ruling("", tuple(dict.fromkeys(problems)))
    holders = {one: part.what for part in reversed(parts) for one in _ids(part.license or "")}
    ids = sorted(holders)
    strict = [
        one
        for one in ids
        if _SHARE_ALIKE.fullmatch(one) or _NON_COMMERCIAL_SHARE_ALIKE.fullmatch(one)
    ]
    strictest = _newest(strict)
    if len(strictest) > 1:
        return _conflict(strictest, holders)
    closed = [one for one in ids if _NON_COMMERCIAL.fullmatch(one)]
    if strictest and closed and not _NON_COMMERCIAL_SHARE_ALIKE.fullmatch(strictest[0]):
        return _conflict([strictest[0], closed[0]], holders)
    if strictest:
        return Ruling(strictest[0])
    bound = [one for one in ids if one not in NO_CONDITIONS]
    return Ruling(" AND ".join(bound or ids[:1]))


def _ids(expression: str) -> list[str]:
    """The licences of an expression without OR; an exception only allows more."""
    plain = re.sub(r" WITH [\w.-]+", "", expression)
    return re.findall(r"[\w.+-]+", plain.replace(" AND ", " "))


def _problem(part: Part) -> str:
    """Why a part's licence needs a person, "" if it does not."""
    if part.license is None:
        return f"{part.what} has no licence"
    if " OR " in part.license:
        return f"{part.what} may be used under {part.license}: choose one of them"
    for one in _ids(part.license):
        if _NO_DERIVATIVES.fullmatch(one):
            return f"{part.what} is under {one}, which allows no derived works"
        known = one in NO_CONDITIONS or any(
            rule.fullmatch(one)
            for rule in (_ATTRIBUTION, _SHARE_ALIKE, _NON_COMMERCIAL, _NON_COMMERCIAL_SHARE_ALIKE)
        )
        if not known:
            return f"{part.what} is under {one}, whose terms cdgen does not know"
    return ""


def _newest(ids: Sequence[str]) -> list[str]:
    """Without CC-BY-SA of lower versions: works under it may be shared under a later one (its section 4b)."""
    ours = [one for one in ids if one.startswith("CC-BY-SA-")]
    return [one for one in ids if one not in ours[:-1]]


def _conflict(pair: Sequence[str], holders: dict[str, str]) -> Ruling:
    a, b = pair[0], pair[1]
    return Ruling(
        "", (f"{holders[a]} is under {a} and {holders[b]} under {b}, which cannot both hold",)
    )


HUB_IDS = {
    "Apache-2.0": "apache-2.0", "MIT": "mit", "CC0-1.0": "cc0-1.0", "CC-BY-2.5": "cc-by-2.5", "CC-BY-2.0": "cc-by-2.0",
    "CC-BY-3.0": "cc-by-3.0", "CC-BY-4.0": "cc-by-4.0", "CC-BY-SA-3.0": "cc-by-sa-3.0", "CC-BY-SA-4.0": "cc-by-sa-4.0",
    "CC-BY-NC-2.0": "cc-by-nc-2.0", "CC-BY-NC-3.0": "cc-by-nc-3.0", "CC-BY-NC-4.0": "cc-by-nc-4.0",
    "CC-BY-NC-SA-2.0": "cc-by-nc-sa-2.0", "CC-BY-NC-SA-3.0": "cc-by-nc-sa-3.0", "CC-BY-NC-SA-4.0": "cc-by-nc-sa-4.0",
    "ODC-By-1.0": "odc-by", "ODbL-1.0": "odbl", "PDDL-1.0": "pddl", "Unlicense": "unlicense",
    "CDLA-Sharing-1.0": "cdla-sharing-1.0", "CDLA-Permissive-1.0": "cdla-permissive-1.0",
    "CDLA-Permissive-2.0": "cdla-permissive-2.0", "BSD-2-Clause": "bsd-2-clause", "BSD-3-Clause": "bsd-3-clause",
    "ISC": "isc", "Zlib": "zlib", "MPL-2.0": "mpl-2.0", "GPL-3.0-only": "gpl-3.0", "LGPL-3.0-only": "lgpl-3.0",
    "AGPL-3.0-only": "agpl-3.0", "GFDL-1.3-only": "gfdl",
}  # fmt: skip
"""What the Hub calls them on cards; everything else is `other` with a name."""
