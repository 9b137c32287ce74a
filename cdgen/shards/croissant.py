"""croissant.json: the corpus for machines, in the Croissant format 1.1, with its provenance in PROV-O.

Every shard is a file with its hash, the members of the shards of a configuration are file sets, and their samples are
records. What the corpus was derived from, and the decoding that generated it, carry the hashes of the lock.
"""

import json
from collections.abc import Iterable
from typing import Any

from cdgen.recipes.schema import Recipe
from cdgen.shards.layout import KINDS
from cdgen.shards.lock import Input, Lock
from cdgen.shards.manifest import Manifest, ManifestShard
from cdgen.shards.markdown import visible
from cdgen.shards.sample import META_TYPES

CONFORMS_TO = "http://mlcommons.org/croissant/1.1"
_PAPER = "https://arxiv.org/abs/2510.08245"
_MEMBERS = {"txt": "text/plain", "json": "application/json", "npy": "application/x-npy"}
_TYPES = {str: "sc:Text", int: "sc:Integer", bool: "sc:Boolean", float: "sc:Float"}
_IDS = {"uint16": "cr:UInt16", "uint32": "cr:UInt32"}

_CROISSANT_WORDS = (
    *("annotation", "arrayShape", "citeAs", "column", "containedIn", "equivalentProperty"),
    *(
        "excludes",
        "extract",
        "field",
        "fileProperty",
        "fileObject",
        "fileSet",
        "format",
        "includes",
    ),
    *("isArray", "isLiveDataset", "jsonPath", "key", "md5", "parentField", "path", "recordSet"),
    *("references", "regex", "repeated", "replace", "samplingRate", "separator", "source"),
    *("subField", "transform"),
)
_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "dct": "http://purl.org/dc/terms/",
    "prov": "http://www.w3.org/ns/prov#",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "sc": "https://schema.org/",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "description": {"@container": "@language"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "name": {"@container": "@language"},
    **{word: f"cr:{word}" for word in _CROISSANT_WORDS},
}


def croissant(manifest: Manifest, recipe: Recipe, lock: Lock, *, dtype: str) -> str:
    """The JSON text.

    Args:
        manifest: of the finished corpus.
        recipe: that it was built by.
        lock: its inputs' hashes.
        dtype: of the token ids: uint16 or uint32.
    """
    kinds = [kind for kind in reversed(KINDS) if any(s.kind == kind for s in manifest.shards)]
    languages = dict.fromkeys(source.language for source in recipe.text.sources if source.language)
    facts = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": CONFORMS_TO,
        "name": visible(manifest.name),
        "description": visible(recipe.description) or "A synthetic pre-training corpus.",
        "license": _license(manifest.license),
        "version": f"0.0.0+{manifest.digest[:16]}",
        "keywords": ["synthetic", "text", "pre-training", "contrastive decoding"],
        **({"inLanguage": list(languages)} if languages else {}),
        "isLiveDataset": False,
        "citeAs": f"Manifest digest {manifest.digest}; {_PAPER}",
        **_provenance(manifest, lock),
        "distribution": [*map(_file, manifest.shards), *_file_sets(manifest, kinds)],
        "recordSet": [one for kind in kinds for one in _records(kind, dtype)],
    }
    return json.dumps(facts, indent=1, ensure_ascii=False) + "\n"


def _license(expression: str) -> str:
    """A URL where there is one: what is not told is said, not left out."""
    if not expression:
        return "NOASSERTION"
    single = " " not in expression and not expression.startswith("LicenseRef-")
    return f"https://spdx.org/licenses/{expression}.html" if single else expression


def _file(shard: ManifestShard) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": shard.name,
        "name": shard.name,
        "contentUrl": f"data/{shard.kind}/{shard.name}",
        "contentSize": f"{shard.num_bytes} B",
        "encodingFormat": "application/x-tar",
        "sha256": shard.sha256,
    }


def _file_sets(manifest: Manifest, kinds: Iterable[str]) -> Iterable[dict[str, Any]]:
    """The members of the shards of every kind, by what they hold."""
    for kind in kinds:
        shards = [s.name for s in manifest.shards if s.kind == kind]
        for ending, encoding in _MEMBERS.items():
            yield {
                "@type": "cr:FileSet",
                "@id": f"{kind}-{ending}",
                "name": f"{kind}-{ending}",
                "containedIn": [{"@id": name} for name in shards],
                "encodingFormat": encoding,
                "includes": f"*.{ending}",
            }


def _records(kind: str, dtype: str) -> Iterable[dict[str, Any]]:
    """The samples of a kind: text, provenance and ids, which share a key."""
    text = _field(f"{kind}/txt", "sc:Text", f"{kind}-txt", {"fileProperty": "content"})
    yield _record_set(kind, "the text of each sample", [_key(kind, "txt"), text])
    name = f"{kind}-provenance"
    facts = [
        _field(f"{name}/{fact}", _TYPES[type_], f"{kind}-json", {"jsonPath": f"$.{fact}"})
        for fact, type_ in META_TYPES.items()
    ]
    yield _record_set(name, "where each sample comes from", [_key(name, "json", kind), *facts])
    name = f"{kind}-ids"
    ids = _field(f"{name}/npy", _IDS[dtype], f"{kind}-npy", {"fileProperty": "content"})
    ids |= {"isArray": True, "arrayShape": "-1"}
    yield _record_set(name, "its token ids", [_key(name, "npy", kind), ids])


def _record_set(name: str, what: str, fields: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "description": what,
        "key": {"@id": f"{name}/key"},
        "field": fields,
    }


def _field(name: str, type_: str, file_set: str, extract: dict[str, str]) -> dict[str, Any]:
    return {
        "@type": "cr:Field",
        "@id": name,
        "name": name,
        "dataType": type_,
        "source": {"fileSet": {"@id": file_set}, "extract": extract},
    }


def _key(record_set: str, ending: str, kind: str = "") -> dict[str, Any]:
    """A sample's key: the name of its members without the ending; the same as that of the text."""
    file_set = f"{(kind or record_set)}-{ending}"
    field = _field(f"{record_set}/key", "sc:Text", file_set, {"fileProperty": "filename"})
    field["source"]["transform"] = {"regex": rf"^(.+)\.{ending}$"}
    return field | ({"references": {"field": {"@id": f"{kind}/key"}}} if kind else {})


def _provenance(manifest: Manifest, lock: Lock) -> dict[str, Any]:
    """What the corpus was derived from, and the activities that generated it (PROV-O)."""
    texts = [
        _entity(f"source {s.name}", lock.sources.get(s.name, Input()), s.license)
        for s in manifest.sources
    ]
    models = [_entity(role, known, "") for role, known in lock.models.items()]
    others = [
        {
            "@type": "prov:Entity",
            "name": f"corpus {visible(info.name)}",
            "identifier": f"manifest:{info.corpus}",
            **({"license": _license(info.license)} if info.license else {}),
        }
        for info in manifest.also
    ]
    software = {
        "@type": ["prov:Agent", "prov:SoftwareAgent"],
        "name": "cdgen",
        "version": lock.cdgen or "unknown",
    }
    activity = {
        "@type": "prov:Activity",
        "name": "contrastive decoding of the prefixes of real text, and mixing",
        "identifier": [f"{stage}:{digest}" for stage, digest in sorted(manifest.digests.items())],
        "description": f"engine {visible(manifest.engine)}; see recipe.yaml; method of {_PAPER}",
        "prov:wasAssociatedWith": software,
    }
    return {
        "prov:wasDerivedFrom": [*texts, *models, *others],
        "prov:wasGeneratedBy": activity,
    }


def _entity(name: str, known: Input, license_: str) -> dict[str, Any]:
    """A text or a model, by name, revision and hash."""
    place = f"hf://{known.hub}@{known.revision}" if known.hub else known.address
    return {
        "@type": "prov:Entity",
        "name": visible(name),
        **({"sha256": known.sha256} if known.sha256 else {}),
        **({"isBasedOn": visible(place)} if place else {}),
        **({"license": _license(license_)} if license_ else {}),
    }
