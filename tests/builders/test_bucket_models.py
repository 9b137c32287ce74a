"""Models in a bucket: the bytes of a folder, fetched once, without pickles, through faults and rivals."""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from threading import Event
from typing import Any
from urllib.parse import unquote

import pytest
from faulty_proxy import Proxy, writes
from given_models import given_recipe, save_model
from stores import BUCKETS, resolve_with
from typer.testing import CliRunner

from cdgen import __version__
from cdgen.builders.fetch import checks, download, fetched, kept, pieces, source_of, unobtainable
from cdgen.builders.hand import Hand
from cdgen.builders.inputs import Resolved, resolve
from cdgen.builders.kept import list_cache
from cdgen.builders.run import build
from cdgen.builders.run_inputs import run_inputs
from cdgen.builders.trace import replay
from cdgen.cli import app
from cdgen.errors import BuildError, UsageError
from cdgen.hub.public_recipe import public_recipe
from cdgen.recipes.load import load_recipe
from cdgen.recipes.runs import load_run
from cdgen.recipes.schema import TokenizerTraining
from cdgen.storage.conditional import Objects
from cdgen.storage.remote import Retries
from cdgen.text.tokenizer import train_tokenizer

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, small_text: str) -> Path:
    """A folder with two models; beside the expert's files a pickle and another format in a folder."""
    root = tmp_path_factory.mktemp("models")
    backend = train_tokenizer(small_text.split("\n\n"), TokenizerTraining(vocab_size=300))
    for name, layers in (("expert", 2), ("amateur", 1)):
        save_model(root / name, backend, layers)
    (root / "expert/pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    (root / "expert/original").mkdir()
    (root / "expert/original/consolidated.safetensors").write_bytes(b"other")
    (root / "pickled").mkdir()
    shutil.copy(root / "expert/config.json", root / "pickled")
    shutil.copy(root / "expert/pytorch_model.bin", root / "pickled")
    return root


@pytest.fixture
def store(
    request: pytest.FixtureRequest, models: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[str, Proxy]]:
    """(the address of the models' folder in S3, the proxy before its server); waits are left out."""
    monkeypatch.setattr(Retries, "_wait_s", lambda *_: 0.0)
    with BUCKETS[getattr(request, "param", "s3")](models, None) as found:
        yield found


@pytest.fixture
def write(small_recipe: Path) -> Callable[..., Path]:
    """Writes a recipe whose models are in a folder or at an address."""

    def write(root: str | Path, name: str = "given.yaml") -> Path:
        path = small_recipe.with_name(name)
        text = given_recipe(f"path: {root}/expert", f"path: {root}/amateur")
        path.write_text(text, encoding="utf-8")
        return path

    return write


def asked(proxy: Proxy, ending: str) -> int:
    """How often files with such names were read."""
    return sum(n for path, n in proxy.asked.items() if unquote(path).endswith(ending))


def no_fault(path: str, before: int) -> None:
    """Every request is answered."""


def found(recipe: Path, cache: Path) -> Resolved:
    return resolve(load_recipe(recipe), cache)


both_kinds = pytest.mark.parametrize("store", BUCKETS, indirect=True)


@both_kinds
def test_a_model_in_a_bucket_is_its_content_and_is_fetched_once_and_without_pickles(
    store: tuple[str, Proxy], models: Path, write: Callable[..., Path], tmp_path: Path
) -> None:
    address, proxy = store
    recipe, cache = write(address), tmp_path / "cache"
    first = found(recipe, cache)

    assert first.hashes == found(write(models, "local.yaml"), cache).hashes
    assert first.expert is not None
    assert {path.name for path in first.expert.rglob("*")} == {
        "config.json", "generation_config.json", WEIGHTS, "tokenizer.json", "tokenizer_config.json"
    }  # fmt: skip
    assert (
        asked(proxy, "expert/model.safetensors") == asked(proxy, "amateur/model.safetensors") == 1
    )
    assert not asked(proxy, ".bin") and not asked(proxy, "consolidated.safetensors")

    before = proxy.commands["GET"]
    assert found(recipe, cache) == first
    assert proxy.commands["GET"] == before + 2  # each folder's list
    listed = [one.kind for one in list_cache(cache).entries]
    assert sorted(listed) == ["fetched", "fetched", "listings", "listings"]
    list_cache(cache, clear=True)
    assert found(recipe, cache).hashes == first.hashes


def test_further_models_and_tokenizers_may_be_in_a_bucket(
    store: tuple[str, Proxy], models: Path, write: Callable[..., Path], tmp_path: Path
) -> None:
    """Of a tokenizer no weights are fetched."""
    hashes = []
    for root in (store[0], models):
        recipe = write(root)
        sum_ = (
            "decode: {method: weighted_sum, models: [{model: expert, weight: 1.0}, "
            f"{{path: {root}/amateur, weight: -0.5}}]}}\ntokenizer: {{path: {root}/amateur}}\n"
        )
        text = recipe.read_text("utf-8").replace(
            "decode: {method: contrastive, lambda: 1.0, alpha: 0.1}\n", sum_
        )
        text = text.replace(
            f"amateur: {{kind: model, path: {root}/amateur}}", "amateur: {kind: none}"
        )
        recipe.write_text(text, encoding="utf-8")
        resolved = found(recipe, tmp_path / "cache")
        assert resolved.tokenizer is not None
        hashes.append(resolved.hashes)
        if isinstance(root, str):
            assert not (resolved.tokenizer / WEIGHTS).exists()
    assert hashes[0] == hashes[1] and hashes[0].models[1]


def test_a_build_with_models_in_a_bucket_has_the_bytes_of_one_with_folders(
    store: tuple[str, Proxy],
    models: Path,
    write: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The lock names the addresses, and a copy of the corpus is replayed with models fetched anew."""
    address, _ = store
    monkeypatch.setenv("CDGEN_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "out"
    report = build(write(address), out)
    local = build(write(models, "local.yaml"), tmp_path / "local")

    assert report.manifest_digest == local.manifest_digest
    files = [path.relative_to(out) for path in sorted(out.glob("data/*/*"))]
    assert files and all(
        (out / file).read_bytes() == (tmp_path / "local" / file).read_bytes() for file in files
    )
    text = (out / "recipe.lock.json").read_text("utf-8")
    lock = json.loads(text)
    assert lock["models"]["expert"]["address"] == f"{address}/expert"
    assert lock["models"]["amateur"]["address"] == f"{address}/amateur"
    assert "s3cr3t" not in text and str(tmp_path) not in text
    assert f"{address}/expert" in (out / "README.md").read_text("utf-8")
    assert f"path: {address}/expert" in public_recipe(out / "recipe.yaml")
    assert build(write(address), out).up_to_date
    run = tmp_path / "run.yaml"
    run.write_text(
        f"{{version: 1, name: run, corpus: out, start: {{path: {address}/expert}}, train: {{context: 64}}}}"
    )
    assert run_inputs(load_run(run)).start_sha256 == lock["models"]["expert"]["sha256"]

    shutil.rmtree(out / "work")
    shutil.rmtree(tmp_path / "cache")
    again = replay(out, 2)
    assert again.num_rows > 0

    lock["models"]["expert"]["address"] = "s3://key:s3cr3t@bucket/model"
    (out / "recipe.lock.json").write_text(json.dumps(lock), encoding="utf-8")
    with pytest.raises(BuildError, match=r"expert: the address in recipe.lock.json must") as caught:
        replay(out, 2)
    assert "s3cr3t" not in str(caught.value)


@both_kinds
@pytest.mark.parametrize("fault", ["503", "429", "reset", "cut", "flip"])
def test_a_store_that_stumbles_gives_the_same_model(
    store: tuple[str, Proxy], models: Path, write: Callable[..., Path], tmp_path: Path, fault: str
) -> None:
    """Every list and every file once; damage shows by the MD5 that the store names."""
    address, proxy = store

    def plan(path: str, before: int) -> str | None:
        damages = fault in ("cut", "flip")
        listing = "expert/" not in path and "amateur/" not in path
        return fault if before == 0 and not (damages and listing) else None

    proxy.plan = plan
    cache = tmp_path / "cache"
    assert found(write(address), cache).hashes == found(write(models, "l.yaml"), cache).hashes
    assert proxy.injected[fault] >= 8


def test_damage_shows_in_what_was_uploaded_in_parts(
    store: tuple[str, Proxy], tmp_path: Path
) -> None:
    """Its etag is of the parts; how large they were, S3 tells. Undamaged it is fetched once."""
    boto3 = pytest.importorskip("boto3")
    address, proxy = store
    bucket, _, folder = address.removeprefix("s3://").partition("/")
    data, name, client = os.urandom(12 << 20), "w.safetensors", boto3.client("s3")
    to = {"Bucket": bucket, "Key": f"{folder}/parts/{name}"}
    upload = client.create_multipart_upload(**to)["UploadId"]
    parts = [
        {
            "PartNumber": n + 1,
            "ETag": client.upload_part(
                PartNumber=n + 1,
                UploadId=upload,
                Body=data[n * (5 << 20) : (n + 1) * (5 << 20)],
                **to,
            )["ETag"],
        }
        for n in range(3)
    ]
    client.complete_multipart_upload(UploadId=upload, MultipartUpload={"Parts": parts}, **to)
    client.close()
    objects = Objects(f"{address}/parts")
    known = checks(objects, objects.files())
    assert known[name].md5.endswith("-3") and known[name].part_bytes == 5 << 20

    def first(fault: str | None, path: str, before: int) -> str | None:
        return fault if before == 0 and path.endswith(name) else None

    for fault, times in ((None, 2), ("flip", 4)):  # two pieces; damaged ones are all fetched again
        proxy.asked.clear()
        proxy.plan = partial(first, fault)
        download(address + "/parts", [(name, len(data))], tmp_path / str(fault), known)
        assert (tmp_path / str(fault) / name).read_bytes() == data
        assert asked(proxy, f"parts/{name}") == times


def test_a_store_whose_etags_are_no_hashes_is_believed_when_it_says_the_same_twice(
    store: tuple[str, Proxy],
    models: Path,
    write: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As of an object encrypted with a key of one's own."""
    address, proxy = store
    honest = Objects.files

    def files(self: Objects) -> dict[str, Any]:
        return {name: replace(told, md5="0" * 32) for name, told in honest(self).items()}

    monkeypatch.setattr(Objects, "files", files)
    cache = tmp_path / "cache"
    assert found(write(address), cache).hashes == found(write(models, "l.yaml"), cache).hashes
    assert asked(proxy, "expert/model.safetensors") == 2


def test_a_fetch_that_is_given_up_tries_nothing_again(
    store: tuple[str, Proxy], models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One file is refused while another one waits for its second try."""
    address, proxy = store
    monkeypatch.setattr(Retries, "_wait_s", lambda *_: 600.0)
    waits = Event()

    def plan(path: str, before: int) -> str:
        if path.endswith(WEIGHTS):
            waits.set()
            return "503"
        waits.wait()
        return "403"

    proxy.plan = plan
    names = ("config.json", WEIGHTS)
    files = [(name, (models / "expert" / name).stat().st_size) for name in names]
    with pytest.raises(BuildError, match="access is refused"):
        download(f"{address}/expert", files, tmp_path / "here")
    assert proxy.injected == {"403": 1, "503": 1}


@pytest.mark.parametrize("while_", ["model.safetensors", "generation_config.json"])
def test_a_model_that_changes_while_it_is_fetched_is_refused(
    store: tuple[str, Proxy], models: Path, write: Callable[..., Path], tmp_path: Path, while_: str
) -> None:
    """And nothing of it is kept; also where the file that is asked for has become shorter."""
    address, proxy = store

    def plan(path: str, before: int) -> str | None:
        if path.endswith(f"amateur/{while_}") and not writes(path):
            Objects(f"{address}/amateur").put("generation_config.json", b"{}")
        return None

    proxy.plan = plan
    recipe, cache = write(address), tmp_path / "cache"
    try:
        with pytest.raises(BuildError, match=r"/amateur: was changed while") as caught:
            found(recipe, cache)
        assert str(caught.value).startswith(f"{recipe}:") and "\n" not in str(caught.value)
        assert len([path for path in (cache / "fetched").iterdir() if path.is_dir()]) == 1
        proxy.plan = no_fault
        assert found(recipe, cache).amateur is not None
    finally:
        original = models / "amateur/generation_config.json"
        Objects(f"{address}/amateur").put("generation_config.json", original.read_bytes())


def test_kept_files_that_were_damaged_are_fetched_again(
    store: tuple[str, Proxy], write: Callable[..., Path], tmp_path: Path
) -> None:
    """A byte, a cut file, a file that is gone."""
    recipe, cache = write(store[0]), tmp_path / "cache"
    first = found(recipe, cache)
    assert first.expert is not None
    weights = first.expert / WEIGHTS
    whole = weights.read_bytes()
    for damaged in (whole[:-1] + bytes([whole[-1] ^ 1]), whole[:-5], None):
        weights.unlink()
        if damaged is not None:
            weights.write_bytes(damaged)
        assert found(recipe, cache) == first
        assert weights.read_bytes() == whole


def test_two_processes_fetch_a_model_once(
    store: tuple[str, Proxy], write: Callable[..., Path], tmp_path: Path
) -> None:
    address, proxy = store
    recipe, cache, server = write(address), tmp_path / "cache", get_context("forkserver")
    server.set_forkserver_preload(["cdgen.builders.inputs", "s3fs"])
    both = [
        server.Process(target=resolve_with, args=(dict(os.environ), recipe, cache))
        for _ in range(2)
    ]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert [one.exitcode for one in both] == [0, 0]
    assert (
        asked(proxy, "expert/model.safetensors") == asked(proxy, "amateur/model.safetensors") == 1
    )
    assert found(recipe, cache).expert is not None
    assert asked(proxy, WEIGHTS) == 2


@pytest.mark.parametrize("name", ["a b.safetensors", ".x.safetensors", "\\..safetensors"])
def test_a_key_that_is_no_name_for_a_file_is_refused(
    store: tuple[str, Proxy], write: Callable[..., Path], tmp_path: Path, name: str
) -> None:
    boto3 = pytest.importorskip("boto3")
    recipe, client = write(store[0]), boto3.client("s3")
    bucket, _, folder = store[0].removeprefix("s3://").partition("/")
    client.put_object(Bucket=bucket, Key=f"{folder}/expert/{name}", Body=b"{}")
    try:
        with pytest.raises(UsageError, match=r"expert: '.*' is no name for a file") as caught:
            found(recipe, tmp_path / "cache")
        assert "\n" not in str(caught.value)
    finally:
        client.delete_object(Bucket=bucket, Key=f"{folder}/expert/{name}")
        client.close()


def test_a_key_that_climbs_is_no_file_of_the_folder(
    store: tuple[str, Proxy], write: Callable[..., Path], tmp_path: Path
) -> None:
    """An object store knows no folders: the key is really called so."""
    boto3 = pytest.importorskip("boto3")
    recipe, client = write(store[0]), boto3.client("s3")
    bucket, _, folder = store[0].removeprefix("s3://").partition("/")
    for key in ("../up.safetensors", "/etc/x.safetensors", "..", "sub/../../config.json"):
        client.put_object(Bucket=bucket, Key=f"{folder}/amateur/{key}", Body=b"{}")
    try:
        amateur = found(recipe, tmp_path / "cache").amateur
        assert amateur is not None and len(list(amateur.rglob("*"))) == 5
        assert not list(tmp_path.rglob("up.safetensors"))
    finally:
        for key in ("../up.safetensors", "/etc/x.safetensors", "..", "sub/../../config.json"):
            client.delete_object(Bucket=bucket, Key=f"{folder}/amateur/{key}")
        client.close()


@pytest.mark.parametrize(
    ("expert", "said"),
    [
        ("{address}/nobody", r"nobody: there are no files, or no such bucket"),
        ("s3://no-such-bucket-at-all/model", r"there are no files, or no such bucket"),
        ("{address}", r"there are no files"),
        ("{address}/expert/original", r"no model in {address}/expert/original \(config.json is missing\)"),
        ("{address}/pickled", r"no safetensors weights in .*/pickled; pickled weights are not loaded"),
        ("s3://bucket", r"must be s3://bucket/folder, found 's3://bucket'"),
        ("s3://bucket/a/../b", r"must be s3://bucket/folder, found"),
        ("s3://bucket//b", r"must be s3://bucket/folder, found"),
        ("s3://key:s3cr3t@bucket/model", r"must hold no user, password or query"),
        ("s3://bucket/model?token=s3cr3t", r"must hold no user, password or query"),
        ("hf://org/name", r"found hf://…; a model on the Hub is given as hf: {{model, revision}}"),
        ("https://host/s3cr3t", r"must be a folder, s3://bucket/folder or gs://bucket/folder, found https://"),
    ],
)  # fmt: skip
def test_what_is_no_model_is_one_line_with_its_place(
    store: tuple[str, Proxy], write: Callable[..., Path], tmp_path: Path, expert: str, said: str
) -> None:
    recipe = write(store[0])
    text = recipe.read_text("utf-8")
    named = expert.format(address=store[0])
    recipe.write_text(text.replace(f"{store[0]}/expert", f"'{named}'"), encoding="utf-8")
    out = tmp_path / "out"
    with pytest.raises(UsageError) as caught:
        build(recipe, out, cache=tmp_path / "cache")
    message = str(caught.value)
    assert message.startswith(f"{recipe}:") and ": expert.path: " in message
    assert re.search(said.format(address=store[0]), message)
    assert "\n" not in message and "s3cr3t" not in message
    assert not out.exists()


def test_without_credentials_or_access_it_is_one_line(
    store: tuple[str, Proxy],
    write: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Exit code 2 of the command line; nothing is written."""
    address, proxy = store
    recipe, out = write(address), tmp_path / "out"

    def refused(word: str) -> None:
        run = CliRunner().invoke(app, ["build", str(recipe), "--out", str(out)])
        assert isinstance(run.exception, UsageError) and word in str(run.exception)
        assert str(run.exception).startswith(f"{recipe}:") and not out.exists()
        assert "s3cr3t" not in str(run.exception)

    proxy.plan = lambda *_: "403"
    refused("access is refused")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    pytest.importorskip("s3fs").S3FileSystem.clear_instance_cache()
    refused("no credentials were found")


def test_a_list_of_weights_that_names_more_is_refused(
    store: tuple[str, Proxy], write: Callable[..., Path], tmp_path: Path
) -> None:
    index = {"weight_map": {"a": WEIGHTS, "b": "model-00002-of-00002.safetensors"}}
    objects = Objects(f"{store[0]}/expert")
    objects.put("model.safetensors.index.json", json.dumps(index).encode())
    try:
        with pytest.raises(
            UsageError, match=r"expert: model-00002-of-00002.safetensors and 0 more"
        ):
            found(write(store[0]), tmp_path / "cache")
    finally:
        objects.delete(["model.safetensors.index.json"])


def test_a_worker_elsewhere_fetches_the_model_from_the_store_itself(
    store: tuple[str, Proxy],
    models: Path,
    write: Callable[..., Path],
    tmp_path: Path,
) -> None:
    """Once per machine; of what it cannot have there, or what is another by now, the driver hears, and why."""
    address, proxy = store
    recipe, mine, theirs = load_recipe(write(address)), tmp_path / "mine", tmp_path / "theirs"
    expert = resolve(recipe, mine).expert
    assert expert is not None
    here = source_of(expert, f"{address}/expert")
    there = replace(here, folder=tmp_path / "not seen there")
    hand = Hand(__version__, recipe.recipe)

    proxy.asked.clear()
    assert hand.missing([there], theirs) == hand.missing([there], theirs) == {}
    assert asked(proxy, WEIGHTS) == 1
    assert fetched(there, theirs, None) == kept(theirs, here.sha256)
    assert source_of(kept(theirs, here.sha256)).sha256 == here.sha256

    other, smaller = tmp_path / "other", replace(there, address=f"{address}/amateur")
    (why,) = hand.missing([smaller], other).values()
    assert "/amateur: has other bytes than this build began with" in why
    assert hand.missing([replace(there, address="")], other) == {here.sha256: ""}
    whole, objects = (models / "expert" / WEIGHTS).read_bytes(), Objects(f"{address}/expert")
    objects.put(WEIGHTS, whole[:-1] + bytes([whole[-1] ^ 1]))
    try:
        (why,) = hand.missing([there], other).values()
    finally:
        objects.put(WEIGHTS, whole)
    assert "/expert: has other bytes than this build began with" in why
    proxy.plan = lambda path, _: "403" if path.endswith(".json") else None
    assert "access is refused" in (unobtainable(there, other) or "")
    assert not [path for path in (other / "fetched").iterdir() if path.is_dir()]
    assert fetched(there, other, pieces(here)) == kept(other, here.sha256)
    assert unobtainable(there, other) is None


def test_damage_on_the_way_to_a_worker_is_fetched_again(
    store: tuple[str, Proxy], write: Callable[..., Path], tmp_path: Path
) -> None:
    address, proxy = store
    expert = found(write(address), tmp_path / "mine").expert
    assert expert is not None
    there = replace(source_of(expert, f"{address}/expert"), folder=tmp_path / "not seen there")
    proxy.asked.clear()
    proxy.plan = lambda path, before: "flip" if before == 0 and path.endswith(WEIGHTS) else None
    assert unobtainable(there, tmp_path / "theirs") is None
    assert proxy.injected["flip"] == 1
