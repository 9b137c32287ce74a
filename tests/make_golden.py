"""Make the golden corpus of the current format: a tiny real build, kept in shards/golden/ and read by tests for ever.

    python tests/make_golden.py            makes it where there is none
    python tests/make_golden.py --replace  makes it anew: only for a format that no release has written

Beside the corpus the script keeps what a reader must find in it (`<corpus>.expected.json`), read with Python's own
tarfile and not with cdgen. The corpus is never built again in tests: on another kind of machine the synthetic text may
differ, and an old golden corpus shows what an old version wrote. shards/FORMAT.md has the rule.
"""

import hashlib
import io
import json
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path

GOLDEN = Path(__file__).resolve().parents[1] / "shards/golden"
NUM_TALES = 14
TALE_CHARACTERS = 420
NOT_PUBLISHED = "work"


def main() -> None:
    """Write text, recipe, corpus and expectations."""
    from cdgen.builders.run import build
    from cdgen.shards.manifest import MANIFEST_FORMAT

    corpus = GOLDEN / f"format-{MANIFEST_FORMAT}"
    if corpus.exists() and sys.argv[1:] != ["--replace"]:
        sys.exit(f"{corpus} is there; --replace makes it anew, unless a release has written it")
    GOLDEN.mkdir(exist_ok=True)
    (GOLDEN / "tales.txt").write_text(tales(), encoding="utf-8")
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "out"
        build(GOLDEN / "golden.yaml", out, cache=Path(scratch) / "cache")
        shutil.rmtree(out / NOT_PUBLISHED)
        shutil.rmtree(corpus, ignore_errors=True)
        shutil.copytree(out, corpus)
    text = json.dumps(expectations(corpus), indent=0, sort_keys=True)
    corpus.with_name(f"{corpus.name}.expected.json").write_text(text + "\n", encoding="utf-8")
    num_bytes = sum(path.stat().st_size for path in GOLDEN.rglob("*") if path.is_file())
    print(f"{corpus}: {num_bytes:,} bytes with its recipe and text")


def tales() -> str:
    """The beginnings of the first packaged tales, cut behind a sentence."""
    import zstandard

    from cdgen.resources import resource

    packed = resource("recipes", "quickstart").parent / "quickstart/fairytales.txt.zst"
    with zstandard.ZstdDecompressor().stream_reader(io.BytesIO(packed.read_bytes())) as stream:
        documents = stream.read().decode().split("\n\n")[:NUM_TALES]
    return "\n\n".join(tale[: tale.rfind(".", 0, TALE_CHARACTERS) + 1] for tale in documents) + "\n"


def expectations(corpus: Path) -> dict[str, object]:
    """What every reader must find: the manifest's digest, and by shard [key, sha256 of txt, json and npy] a sample."""
    manifest = json.loads((corpus / "manifest.json").read_text(encoding="utf-8"))
    shards = {path.name: members(path) for path in sorted(corpus.glob("data/*/*.tar"))}
    return {"format": manifest["format"], "digest": manifest["digest"], "shards": shards}


def members(path: Path) -> list[list[str]]:
    """[key, sha256 of the .txt, of the .json, of the .npy member] of each sample, read by tarfile."""
    samples: dict[str, list[str]] = {}
    with tarfile.open(path) as archive:
        for member in archive:
            content = archive.extractfile(member)
            assert content is not None
            key, dot, ending = member.name.partition(".")
            row = samples.setdefault(key, [key])
            assert dot and ending == ("txt", "json", "npy")[len(row) - 1]
            row.append(hashlib.sha256(content.read()).hexdigest())
    return list(samples.values())


if __name__ == "__main__":
    main()
