"""Ray builds and a bucket: shards go there and models come from there, and the corpus is the local build's."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from corpora import events, hashes
from faulty_proxy import writes
from given_models import given_recipe, save_model
from kitchen import Kitchen
from ray_builds import patiently, profile
from stores import BUCKETS, s3_store

from cdgen.builders.checking import verify_anywhere
from cdgen.builders.destination import working_folder
from cdgen.builders.fetch import pieces
from cdgen.builders.ray import crew, decoding
from cdgen.builders.report import Report
from cdgen.builders.run import build
from cdgen.builders.status import status
from cdgen.recipes.schema import TokenizerTraining
from cdgen.storage.conditional import Objects
from cdgen.text.tokenizer import train_tokenizer


class RefusedOrLostOnce:
    """A worker's first upload of a shard is refused; that of its receipt is done, and the answer never arrives."""

    def __init__(self) -> None:
        self.seen: set[str] = set()

    def __call__(self, path: str, before: int) -> str | None:
        if path in self.seen or not writes(path):
            return None
        self.seen.add(path)
        if "/data/synthetic" in path:
            return "503"
        return "lost" if "/work/receipts/synthetic" in path else None


@pytest.mark.parametrize("kind", BUCKETS)
def test_workers_that_deliver_into_a_bucket_make_the_bytes_of_a_local_build(
    kitchen: Kitchen,
    filtered: tuple[Path, Report],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    """Filtered, looked at as the shards arrive. Ray is started in here: its workers inherit where the store is."""
    ray = pytest.importorskip("ray")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    (out, calm), recipe = filtered, kitchen.home / "filtered.yaml"
    cache = tmp_path / "cache"
    shutil.copytree(kitchen.home / "cache", cache)
    (tmp_path / "nothing").mkdir()
    with BUCKETS[kind](tmp_path / "nothing", RefusedOrLostOnce()) as (address, proxy):
        # "local": otherwise it would join a cluster that happens to run here.
        ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
        try:
            two = profile(workers={"min": 2, "max": 2, "cpus": 0.5}, processes=1)
            report = build(recipe, address, cache=cache, profile=two)
        finally:
            ray.shutdown()

        assert report.manifest_digest == calm.manifest_digest
        working = working_folder(address, cache)
        assert len({one["worker"] for one in events(working, "worker")}) == 2
        sent = len(list(out.glob("data/synthetic/*.tar")))  # those of the other corpus, too
        assert 1 < len(events(working, "shard")) < sent
        assert proxy.injected["503"] == proxy.injected["lost"] == sent
        assert hashes(working) == hashes(out)
        assert not verify_anywhere(address, workers=2)[1].problems
        manifest = Objects(address).read("manifest.json")
        assert manifest == (out / "manifest.json").read_bytes()


@pytest.fixture
def two_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """What starts a cluster of two nodes with a cache of their own each, `node-0` and `node-1`."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    cluster = Cluster()

    def start() -> None:
        for number in range(2):
            monkeypatch.setenv("CDGEN_CACHE", str(tmp_path / f"node-{number}"))
            patiently(
                lambda: cluster.add_node(
                    num_cpus=1, object_store_memory=80_000_000, include_dashboard=False
                )
            )
        monkeypatch.setenv("CDGEN_CACHE", str(tmp_path / "driver"))
        ray.init(address=cluster.address, log_to_driver=False)

    try:
        yield start
    finally:
        ray.shutdown()
        cluster.shutdown()


def test_every_machine_fetches_a_model_in_a_bucket_itself_and_once(
    two_nodes: Any,
    small_recipe: Path,
    small_text: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing is sent by the driver, whose folder they do not see, and the bytes are those of a local build.

    In a second build the bucket changes between the driver's look and theirs: then it sends what it saw, and tells why.
    """
    backend = train_tokenizer(small_text.split("\n\n"), TokenizerTraining(vocab_size=300))
    models = tmp_path / "models"
    for name, layers in (("expert", 2), ("amateur", 1)):
        save_model(models / name, backend, layers)
    honest: Any = decoding.order_of
    folders: dict[str, Path] = {}

    def order_of(*arguments: Any) -> Any:
        order = honest(*arguments)
        folders.update((one.sha256, one.folder) for one in order.sources)
        unseen = {
            name: replace(getattr(order, name), folder=tmp_path / "of the driver")
            for name in ("expert", "amateur")
        }
        return replace(order, **unseen)

    def none_sent(source: object) -> Any:
        raise AssertionError(source)

    monkeypatch.setattr(decoding, "order_of", order_of)
    monkeypatch.setattr(crew, "pieces", none_sent)
    with s3_store(models) as (address, proxy):
        small_recipe.write_text(given_recipe(f"path: {models}/expert", f"path: {models}/amateur"))
        calm = build(small_recipe, tmp_path / "calm", cache=tmp_path / "driver")
        small_recipe.write_text(given_recipe(f"path: {address}/expert", f"path: {address}/amateur"))
        two_nodes()
        two = profile(workers={"min": 2, "max": 2, "cpus": 1.0})
        out = tmp_path / "out"
        report = build(small_recipe, out, cache=tmp_path / "driver", profile=two)

        assert report.manifest_digest == calm.manifest_digest
        assert hashes(out) == hashes(tmp_path / "calm")
        assert len({one["worker"] for one in events(out, "worker")}) == 2
        read = {path: n for path, n in proxy.asked.items() if path.endswith("/model.safetensors")}
        assert list(read.values()) == [3, 3]  # by the driver and the two nodes
        for number in range(2):
            kept = tmp_path / f"node-{number}/fetched"
            assert len([path for path in kept.iterdir() if path.is_dir()]) == 2
            shutil.rmtree(kept)

        whole, expert = (models / "expert/model.safetensors").read_bytes(), f"{address}/expert"

        def order_of_changed(*arguments: Any) -> Any:
            damaged = whole[:-1] + bytes([whole[-1] ^ 1])
            Objects(expert).put("model.safetensors", damaged)
            return order_of(*arguments)

        monkeypatch.setattr(decoding, "order_of", order_of_changed)
        monkeypatch.setattr(
            crew, "pieces", lambda source: pieces(replace(source, folder=folders[source.sha256]))
        )
        one = profile(workers={"max": 1, "cpus": 1.0})
        build(small_recipe, tmp_path / "again", cache=tmp_path / "driver", profile=one)

        assert hashes(tmp_path / "again") == hashes(tmp_path / "calm")
        (sent,) = events(tmp_path / "again", "sent")
        assert f"{expert}: has other bytes than this build began with" in str(sent["why"])
        assert status(tmp_path / "again").sent == {sent["node"]: sent["why"]}
