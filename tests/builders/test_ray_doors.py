"""The two ways into a running cluster that are not a shell on it: Ray's job server, and an address of `ray://`."""

import json
import os
import secrets
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from corpora import hashes
from ray_builds import until

from cdgen.builders.events import read_events
from cdgen.builders.report import Report

pytestmark = pytest.mark.timeout(600)
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
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "CDGEN_CACHE": str(built[1].parent / "cache"),
    }
    home = Path(tempfile.mkdtemp(prefix="cdgen-", dir="/tmp"))  # sockets need a short name
    try:
        for tries in range(4):
            process, head = start(home / f"{tries}", environment)
            said = (home / f"{tries}.log").read_text()
            if process.poll() is None or "timed out during startup" not in said:
                break  # Ray gives a node 30 s, which is not always enough beside a busy suite
        assert process.poll() is None, said
        yield head
        process.terminate()
        process.wait()
    finally:
        shutil.rmtree(home, ignore_errors=True)


def start(home: Path, environment: dict[str, str]) -> "tuple[subprocess.Popen[bytes], Head]":
    """A head, once it listens or has ended."""
    gcs, jobs, clients = free_ports(3)
    command = [
        "ray", "start", "--head", "--block", "--num-cpus=1", "--num-gpus=1", "--object-store-memory=80000000",
        "--node-ip-address=127.0.0.1", f"--port={gcs}", f"--dashboard-port={jobs}",
        f"--ray-client-server-port={clients}", "--dashboard-agent-listen-port=0",
        "--min-worker-port=0", "--max-worker-port=0", f"--temp-dir={home}",
    ]  # fmt: skip
    said = home.with_suffix(".log")
    with said.open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    def is_up() -> bool:
        return "Ray runtime started" in said.read_text() and listens(jobs) and listens(clients)

    try:
        until(lambda: process.poll() is not None or is_up())
    except AssertionError:
        process.terminate()
        raise
    return process, Head(jobs, clients, environment)


BUILD = [sys.executable, "-m", "cdgen", "build", "small.yaml", "--builder", "door.yaml"]


def run(head: Head, folder: Path, *command: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command, cwd=folder, env=head.environment, capture_output=True, text=True, check=False
    )


def actors(head: Head) -> set[str]:
    """The names of the actors that the dashboard lists."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{head.jobs}/api/v0/actors",
        headers={"Authorization": f"Bearer {head.environment['RAY_AUTH_TOKEN']}"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        listed = json.load(answer)["data"]["result"]["result"]
    return {one["name"] for one in listed}


def workers(out: Path) -> set[str]:
    """The names of those that have joined the build."""
    return {one["worker"] for one in read_events(out) if one["event"] == "worker"}


@pytest.fixture
def folder(built: Built, tmp_path: Path) -> Path:
    """With copies of the recipe and its text."""
    path = tmp_path / "recipe"
    path.mkdir()
    for file in (built[0], built[0].with_name("tales.txt")):
        shutil.copy(file, path)
    return path


def test_a_job_submitted_to_the_head_makes_the_bytes_of_a_local_build(
    head: Head, built: Built, folder: Path
) -> None:
    """The recipe's own paths hold: the working directory goes along. What is written there would not come back."""
    (folder / "door.yaml").write_text(PROFILE.format(address="auto"), encoding="utf-8")
    out = folder.parent / "out"
    steps = (
        f"{shlex.join(BUILD)} || echo exit $?; {shlex.join(BUILD)} --out {shlex.quote(str(out))}"
    )
    submit = ["ray", "job", "submit", f"--address=http://127.0.0.1:{head.jobs}", "--working-dir=."]

    done = run(head, folder, *submit, "--", "bash", "-c", steps)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "cdgen: shards/small: lies in the copy of a working directory that Ray" in done.stdout
    assert "exit 2" in done.stdout
    assert hashes(out) == hashes(built[1])


def test_a_job_that_is_given_a_gpu_has_it_to_itself(head: Head, tmp_path: Path) -> None:
    """Where the driver trains: it sees that GPU and no other, and Ray gives it to no worker meanwhile."""
    look = (
        "import os, ray; ray.init(logging_level='error'); "
        "print('seen', os.environ['CUDA_VISIBLE_DEVICES'], 'left', ray.available_resources().get('GPU', 0))"
    )
    submit = ["ray", "job", "submit", f"--address=http://127.0.0.1:{head.jobs}"]

    done = run(head, tmp_path, *submit, "--entrypoint-num-gpus=1", "--", sys.executable, "-c", look)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "seen 0 left 0" in done.stdout


def test_a_driver_outside_the_cluster_makes_the_bytes_of_a_local_build(
    head: Head, built: Built, folder: Path
) -> None:
    """While it does, Ray's dashboard lists the build's worker by the name that `cdgen status` calls it."""
    address = f"ray://127.0.0.1:{head.clients}"
    (folder / "door.yaml").write_text(PROFILE.format(address=address), encoding="utf-8")
    out = folder.parent / "out"

    with ThreadPoolExecutor(max_workers=1) as thread:
        building = thread.submit(run, head, folder, *BUILD, "--out", str(out))
        until(lambda: building.done() or workers(out))
        seen = actors(head)
        done = building.result()

    assert done.returncode == 0, done.stderr
    assert hashes(out) == hashes(built[1])
    (worker,) = workers(out)
    assert worker in seen and worker.startswith("cdgen-small-")
