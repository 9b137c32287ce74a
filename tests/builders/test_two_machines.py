"""A build over two network namespaces: the head in one, the worker in the other, all data through an S3 server.

The worker's machine has another address and sees neither the driver's folders nor its cache. Needs root and Linux.
"""

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cdgen.builders.report import Report

Built = tuple[Path, Path, Report]
PROFILE = """\
version: 1
name: two-machines
engine: ray
address: {head}:6379
workers: {{min: 1, max: 1, gpus: 0.0, cpus: 1.0}}
stragglers: null
patience_s: 240
"""


class Machine:
    """A network namespace with an address, and in it a folder of its own where the other one's are."""

    def __init__(self, name: str, address: str, private: Path, environment: dict[str, str]) -> None:
        self.name, self.address, self._private, self._environment = (
            name,
            address,
            private,
            environment,
        )

    def command(self, *arguments: str) -> list[str]:
        """What runs a program there."""
        hide = f"mount -t tmpfs tmpfs {self._private} && " if self._private.exists() else ""
        quoted = " ".join(f"'{argument}'" for argument in arguments)
        return ["ip", "netns", "exec", self.name, "sh", "-c", f"{hide}exec {quoted}"]

    def start(self, *arguments: str) -> "subprocess.Popen[bytes]":
        """A program that stays."""
        return subprocess.Popen(self.command(*arguments), env=self._environment)

    def keep(self, *arguments: str) -> "subprocess.Popen[bytes]":
        """A program that stays, started again when it fails: Ray gives a node 30 s to start, busy or not."""
        *before, program = self.command(*arguments)
        hide, _, command = program.rpartition("exec ")
        again = f"{hide}while ! {command}; do sleep 1; done"
        return subprocess.Popen([*before, again], env=self._environment)

    def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """A program that ends."""
        return subprocess.run(
            self.command(*arguments),
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder with a short name: Ray puts sockets there."""
    folder = Path(tempfile.mkdtemp(prefix="cdgen-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def machines(home: Path) -> Iterator[tuple[Machine, Machine]]:
    """Two namespaces with a cable between them; in the second one, the first one's folder is hidden."""
    if shutil.which("ip") is None:
        pytest.skip("there is no ip command: apt-get install iproute2")
    token = secrets.token_hex(2)
    names, net = (f"cdgen-a-{token}", f"cdgen-b-{token}"), f"10.{secrets.randbelow(200) + 20}.77"
    made = subprocess.run(
        ["ip", "netns", "add", names[0]], capture_output=True, text=True, check=False
    )
    if made.returncode:
        pytest.skip(f"network namespaces are not allowed here: {made.stderr.strip()}")
    try:
        _ip("netns", "add", names[1])
        cable = f"cda{token}", f"cdb{token}"
        _ip(
            "link",
            "add",
            cable[0],
            "netns",
            names[0],
            "type",
            "veth",
            "peer",
            "name",
            cable[1],
            "netns",
            names[1],
        )
        for number, (name, end) in enumerate(zip(names, cable, strict=True), 1):
            _ip("-n", name, "addr", "add", f"{net}.{number}/24", "dev", end)
            for device in (end, "lo"):
                _ip("-n", name, "link", "set", device, "up")
        (home / "driver").mkdir()
        settings = _settings(f"http://{net}.1:5000")
        here = settings | {"CDGEN_CACHE": str(home / "driver/cache")}
        there = settings | {"CDGEN_CACHE": str(home / "worker-cache")}
        yield (
            Machine(names[0], f"{net}.1", home / "nothing", here),
            Machine(names[1], f"{net}.2", home / "driver", there),
        )
    finally:
        for name in names:
            pids = subprocess.run(
                ["ip", "netns", "pids", name], capture_output=True, text=True, check=False
            )
            for pid in pids.stdout.split():  # only what this test has started is in there
                subprocess.run(["kill", "-9", pid], check=False, capture_output=True)
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


def _settings(endpoint: str) -> dict[str, str]:
    return os.environ | {
        "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "s3cr3t", "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": endpoint, "AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull, "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_worker_niceness": "0",  # Ray's 15 starves beside a busy machine
    }  # fmt: skip


@contextmanager
def running(process: "subprocess.Popen[bytes]") -> Iterator[None]:
    """A program that is ended at the end."""
    try:
        yield
    finally:
        process.kill()
        process.wait()


def until(machine: Machine, program: str) -> None:
    """Try a Python program until it ends well."""
    for _ in range(240):
        done = machine.run(sys.executable, "-c", program)
        if done.returncode == 0:
            return
        time.sleep(0.5)
    raise AssertionError(done.stderr)


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_a_build_over_two_machines_that_share_only_a_bucket_has_the_bytes_of_the_local_one(
    built: Built, home: Path, machines: tuple[Machine, Machine]
) -> None:
    pytest.importorskip("ray")
    pytest.importorskip("moto.server")
    head, other = machines
    shutil.copytree(built[1].parent / "cache", home / "driver/cache")
    recipe = home / "driver" / built[0].name
    for name in (built[0].name, "tales.txt"):
        shutil.copy(built[0].with_name(name), recipe.with_name(name))
    profile = home / "driver/profile.yaml"
    profile.write_text(PROFILE.format(head=head.address), encoding="utf-8")
    ray = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"]
    temporary = f"--temp-dir={home}/driver/ray"
    server = head.start(sys.executable, "-m", "moto.server", "-H", head.address, "-p", "5000")
    first = head.start(
        *ray, "--head", f"--node-ip-address={head.address}", "--num-cpus=0", "--include-dashboard=false",
        "--port=6379", temporary,
    )  # fmt: skip
    with running(server), running(first):
        until(head, 'import boto3; boto3.client("s3").create_bucket(Bucket="bucket")')
        until(other, f'import socket; socket.create_connection(("{head.address}", 6379), 1)')
        second = other.keep(
            *ray,
            f"--address={head.address}:6379",
            f"--node-ip-address={other.address}",
            "--num-cpus=1",
        )
        with running(second):
            address = "s3://bucket/corpora/small"
            command = [sys.executable, "-m", "cdgen"]
            made = head.run(
                *command,
                "build",
                str(recipe),
                "--out",
                address,
                "--builder",
                str(profile),
                "--json",
            )
            assert made.returncode == 0, made.stderr
            report: dict[str, Any] = json.loads(made.stdout)
            assert report["manifest_digest"] == built[2].manifest_digest
            checked = head.run(*command, "verify", address)
            assert checked.returncode == 0, checked.stdout + checked.stderr
            seen = other.run("ls", str(home / "driver"))
            assert seen.stdout == "", "the worker's machine sees nothing of the driver's"
