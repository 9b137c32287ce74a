"""The two ways into a running cluster that are not a shell on it: Ray's job server, and an address of `ray://`."""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from corpora import hashes
from ray_builds import until

from cdgen.builders.report import Report

pytestmark = [pytest.mark.timeout(600), pytest.mark.xdist_group("ray")]
Built = tuple[Path, Path, Report]
PROFILE = """\
version: 1
name: door
engine: ray
address: {address}
workers: {{max: 1, cpus: 0.5, gpus: 0.0}}
stragglers: null
"""


@dataclass(frozen=True)
class Head:
    """A cluster of one node, with a token of its own: the ports of its doors, and how to speak to it."""

    jobs: int
    clients: int
    environment: dict[str, str]


def free_ports(count: int) -> list[int]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def head(built: Built) -> Iterator[Head]:
    """As `ray start --head` does it, but for ports."""
    gcs, jobs, clients = free_ports(3)
    home = Path(tempfile.mkdtemp(prefix="cdgen-", dir="/tmp"))  # sockets need a short name
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",
        "CDGEN_CACHE": str(built[1].parent / "cache"),
    }
    command = [
        "ray", "start", "--head", "--block", "--num-cpus=1", "--object-store-memory=80000000",
        "--node-ip-address=127.0.0.1", f"--port={gcs}", f"--dashboard-port={jobs}",
        f"--ray-client-server-port={clients}", "--dashboard-agent-listen-port=0",
        "--min-worker-port=0", "--max-worker-port=0", f"--temp-dir={home}",
    ]  # fmt: skip
    with (home / "log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        until(lambda: process.poll() is not None or (listens(jobs) and listens(clients)))
        assert process.poll() is None, (home / "log").read_text()
        yield Head(jobs, clients, environment)
    finally:
        process.terminate()
        process.wait()
        shutil.rmtree(home, ignore_errors=True)


def built_through(
    head: Head, built: Built, folder: Path, address: str, *before: str
) -> "subprocess.CompletedProcess[str]":
    """`cdgen build` in a folder with copies of the recipe, its text and a profile, run as `before` says."""
    recipe = built[0]
    for file in (recipe, recipe.with_name("tales.txt")):
        shutil.copy(file, folder)
    (folder / "door.yaml").write_text(PROFILE.format(address=address), encoding="utf-8")
    command = [sys.executable, "-m", "cdgen", "build", recipe.name, "--builder", "door.yaml"]
    return subprocess.run(
        [*before, *command, "--out", str(folder.parent / "out")],
        cwd=folder,
        env=head.environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "recipe"
    path.mkdir()
    return path


def test_a_job_submitted_to_the_head_makes_the_bytes_of_a_local_build(
    head: Head, built: Built, folder: Path
) -> None:
    """The recipe's own paths hold: the working directory goes along."""
    submit = ["ray", "job", "submit", f"--address=http://127.0.0.1:{head.jobs}", "--working-dir=."]

    done = built_through(head, built, folder, "auto", *submit, "--")

    assert done.returncode == 0, done.stdout + done.stderr
    assert hashes(folder.parent / "out") == hashes(built[1])


def test_a_driver_outside_the_cluster_makes_the_bytes_of_a_local_build(
    head: Head, built: Built, folder: Path
) -> None:
    done = built_through(head, built, folder, f"ray://127.0.0.1:{head.clients}")

    assert done.returncode == 0, done.stderr
    assert hashes(folder.parent / "out") == hashes(built[1])
