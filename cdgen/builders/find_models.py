"""The models that decoded a corpus: where the build had them, or else by what its lock says of them.

A copy of a corpus has no work/. A model of the Hub is had again at its commit, one in an object store from its address,
a trained one is looked for in the cache by its training digest; each counts only if its weights have the hash of the
lock.
"""

import json
from pathlib import Path

from cdgen.builders.bucket_models import bucket_folder
from cdgen.builders.inputs import weights_sha256
from cdgen.builders.model_stage import MODELS
from cdgen.builders.snapshots import snapshot
from cdgen.corpus import Corpus
from cdgen.decode import ngram
from cdgen.errors import BuildError
from cdgen.recipes.addresses import read_model_path
from cdgen.recipes.digests import ngram_digest, training_digest
from cdgen.recipes.load import load_recipe
from cdgen.recipes.schema import HubModel, ModelTraining, NgramAmateur, Recipe
from cdgen.shards.lock import Input, read_lock
from cdgen.storage import sha256_file
from cdgen.storage.cache import default_cache

LOCK = "recipe.lock.json"


def model_folders(corpus: Corpus, cache: Path | None = None) -> list[Path | None]:
    """Expert, amateur (or None) and further models.

    Args:
        corpus: a finished one.
        cache: where builds keep trained models; $CDGEN_CACHE by default.

    Raises:
        BuildError: one is not here; says what to do.
        UsageError: the Hub does not give one.
    """
    file = corpus.folder / MODELS
    if file.is_file():
        kept = json.loads(file.read_text(encoding="utf-8"))
        named = [kept["expert"], kept["amateur"], *kept.get("further", ())]
        folders = [None if folder is None else Path(folder) for folder in named]
        if all(folder is None or folder.is_dir() for folder in folders):
            return folders
    recipe = load_recipe(corpus.folder / "recipe.yaml").recipe
    wanted = read_lock(corpus.folder / LOCK).models
    if "expert" not in wanted:
        raise BuildError(
            f"{corpus.where}: neither {MODELS} nor {LOCK} says which models decoded it; build the recipe again"
        )
    cache = cache or default_cache()
    found: list[Path | None] = [_found(corpus, recipe, "expert", wanted["expert"], cache), None]
    if "amateur" in wanted:
        found[1] = _found(corpus, recipe, "amateur", wanted["amateur"], cache)
    further = sorted((role for role in wanted if role.startswith("further-")), key=_number)
    return found + [_found(corpus, recipe, role, wanted[role], cache) for role in further]


def _number(role: str) -> int:
    return int(role.rpartition("-")[2])


def _found(corpus: Corpus, recipe: Recipe, role: str, wanted: Input, cache: Path) -> Path:
    if wanted.hub:
        hub = HubModel(model=wanted.hub, revision=wanted.revision)
        folder = snapshot(hub, f"{corpus.where}: {role}", weights=True)
        if weights_sha256(folder) != wanted.sha256:
            raise BuildError(
                f"{corpus.where}: {role}: the files of {wanted.hub}@{wanted.revision[:8]} have not the hash of {LOCK}"
            )
        return folder
    if wanted.address:
        return _at_address(corpus, role, wanted, cache)
    text = corpus.manifest.digests.get("text", "")
    if role == "amateur" and isinstance(recipe.amateur, NgramAmateur):
        folder = cache / "ngrams" / ngram_digest(text, recipe.amateur.order)[:32]
        if (folder / ngram.FILE).is_file() and sha256_file(folder / ngram.FILE) == wanted.sha256:
            return folder
    trained = recipe.amateur_training() if role == "amateur" else None
    for train in filter(None, (trained, recipe.expert.train)):
        here = _trained(text, train, wanted, cache)
        if here is not None:
            return here
    what = f"trained to step {wanted.step}" if wanted.step else "a folder of the builder's machine"
    raise BuildError(
        f"{corpus.where}: the {role} ({what}, weights {wanted.sha256[:12]}…) is not in {cache}; build its recipe.yaml "
        "here, which trains the same models on the same kind of machine, or replay where it was built"
    )


def _at_address(corpus: Corpus, role: str, wanted: Input, cache: Path) -> Path:
    at = f"{corpus.where}: {role}"
    try:
        address = read_model_path(wanted.address)
    except ValueError as error:  # a lock may come from anybody
        raise BuildError(f"{at}: the address in {LOCK} {error}") from None
    if not isinstance(address, str):
        raise BuildError(f"{at}: the address in {LOCK} is none")
    folder = bucket_folder(address, at, weights=True, cache=cache)
    if weights_sha256(folder) != wanted.sha256:
        raise BuildError(f"{at}: the files in {address} have not the hash of {LOCK}")
    return folder


def _trained(text: str, train: ModelTraining, wanted: Input, cache: Path) -> Path | None:
    """A trained model of any numeric class whose weights have the wanted hash."""
    from cdgen.training.pretrain import open_run

    for folder in sorted((cache / "models").glob(f"{training_digest(text, train)[:32]}-*")):
        run = open_run(folder)
        for kept in run.checkpoints if run else ():
            if run and (kept.step, kept.sha256) == (wanted.step, wanted.sha256):
                return run.path(kept.step)
    return None
