"""A build's counts in Ray's Prometheus endpoint, scraped from a real Ray. As a script: the process that starts it."""

import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from cdgen.builders.events import Recorded
from cdgen.builders.profile import Profile
from cdgen.progress import Quiet

SHARD = "synthetic-train-0123abcd-00000.tar"
WANTED = {
    "cdgen_shards_total": 2.0,
    "cdgen_tokens_total": 1234.0,
    "cdgen_retries_total": 1.0,
    "cdgen_deaths_total": 1.0,
    "cdgen_quarantined_total": 1.0,
    "cdgen_workers": 1.0,
}
LONGEST_S = 120.0


def test_counts_of_a_build_can_be_scraped(tmp_path: Path) -> None:
    """Every event that has a count arrives at the endpoint of the node, under the build's name.

    In a process of its own: Ray leaves the processes that it started to the end of the one that started it.
    """
    done = subprocess.run(
        [sys.executable, __file__, tmp_path],
        env={
            **os.environ,
            "RAY_metrics_report_interval_ms": "500",
        },
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == WANTED


def main(folder: Path) -> None:
    """Start Ray as `ray-local` does, tell it a build's events, and print what its endpoint says of them."""
    from cdgen.builders.ray.metrics import Metrics
    from cdgen.builders.ray.session import session

    said = {"version": 1, "name": "here", "engine": "ray", "address": "local"}
    with session(Profile.model_validate(said)):
        log = Recorded(Quiet(), folder)
        with log.also(Metrics("tales").heard):
            happen(log)
        log.event("shard", name=SHARD, tokens=1, worker="w000")  # nobody listens any more
        until, found = time.monotonic() + LONGEST_S, scraped()
        while found != WANTED and time.monotonic() < until:
            time.sleep(0.5)
            found = scraped()
    print(json.dumps(found))


def happen(log: Recorded) -> None:
    """Two workers, two shards, a death, a shard that is set aside."""
    for worker in ("w000", "w001"):
        log.event("worker", worker=worker, node="vm", state="joined", why="")
    log.event("shard", name=SHARD, tokens=1234, worker="w000")
    log.event("shard", name=SHARD.replace("0.tar", "1.tar"), tokens=0, worker="w000")
    log.event("retry", shard=SHARD, worker="w001", cause="death", attempt=1, why="killed")
    log.event("worker", worker="w001", node="vm", state="dead", why="killed")
    log.event("quarantined", shard=SHARD, attempts=2, why="no")


def scraped() -> dict[str, float]:
    """The values of the build called tales, by metric."""
    import ray

    node = ray.nodes()[0]
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    with urllib.request.urlopen(address, timeout=10) as answer:
        text = answer.read().decode()
    lines = re.findall(r'^ray_(cdgen_\w+)\{.*build="tales".*\} (\S+)$', text, re.MULTILINE)
    return {name: float(value) for name, value in lines}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
