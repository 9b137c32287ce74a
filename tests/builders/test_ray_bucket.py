"""A Ray build into a bucket: workers deliver there and nowhere else, and the corpus is the local build's."""

import shutil
from pathlib import Path

import pytest
from corpora import events, hashes
from ray_builds import profile
from stores import s3_store

from cdgen.builders.checking import verify_anywhere
from cdgen.builders.destination import working_folder
from cdgen.builders.report import Report
from cdgen.builders.run import build
from cdgen.storage.conditional import Objects

pytestmark = pytest.mark.xdist_group("ray")


def refused_or_lost_once(path: str, before: int) -> str | None:
    """A worker's first upload of a shard is refused; that of its receipt is done, and the answer never arrives."""
    if before > 0 or not path.startswith("PUT"):
        return None
    if "/data/synthetic" in path:
        return "503"
    return "lost" if "/work/receipts/synthetic" in path else None


def test_workers_that_deliver_into_a_bucket_make_the_bytes_of_a_local_build(
    built: tuple[Path, Path, Report], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray is started in here: its workers inherit where the store is."""
    ray = pytest.importorskip("ray")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_worker_niceness", "0")  # beside a busy suite Ray's 15 starves
    recipe, out, calm = built
    cache = tmp_path / "cache"
    shutil.copytree(out.parent / "cache", cache)
    (tmp_path / "nothing").mkdir()
    with s3_store(tmp_path / "nothing", refused_or_lost_once) as (address, proxy):
        # "local": otherwise it would join a cluster that happens to run here.
        ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
        try:
            two = profile(workers={"min": 2, "max": 2, "cpus": 0.5})
            report = build(recipe, address, cache=cache, profile=two)
        finally:
            ray.shutdown()

        assert report.manifest_digest == calm.manifest_digest
        working = working_folder(address, cache)
        assert len({one["worker"] for one in events(working, "worker")}) == 2
        assert len(events(working, "shard")) == proxy.injected["503"] == proxy.injected["lost"]
        assert hashes(working) == hashes(out)
        assert not verify_anywhere(address)[1].problems
        manifest = Objects(address).read("manifest.json")
        assert manifest == (out / "manifest.json").read_bytes()
