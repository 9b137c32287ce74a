"""Servers on this machine that hold a folder: a plain web server, the Hub's double, an S3 server, one like Google's."""

import atexit
import hashlib
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from faulty_proxy import Plan, Proxy, faulty, web
from google_double import google
from hub_double import hub

Store = Callable[[Path, Plan | None], AbstractContextManager[tuple[str, Proxy]]]
"""(folder, faults) -> (the folder's address on the server, the proxy before the server)."""

GCS_VARIABLE = "CDGEN_TEST_GCS"
"""Names a server with Google's interface, such as its test bench, to test against in place of our double."""


@contextmanager
def web_store(folder: Path, plan: Plan | None = None) -> Iterator[tuple[str, Proxy]]:
    """A server that knows no ranges."""
    with web(folder) as address, faulty(address, plan) as proxy:
        yield proxy.address, proxy


@contextmanager
def hub_store(folder: Path, plan: Plan | None = None) -> Iterator[tuple[str, Proxy]]:
    """The Hub; its settings are put into the environment."""
    root = folder.with_name(f"{folder.name}-hub")
    if not root.exists():
        (root / "datasets/org").mkdir(parents=True)
        (root / "datasets/org/tiny").symlink_to(folder, target_is_directory=True)
    with (
        hub(root) as (address, _),
        faulty(address, plan) as proxy,
        pytest.MonkeyPatch.context() as environment,
    ):
        environment.setenv("HF_ENDPOINT", proxy.address)
        environment.setenv("HF_TOKEN", "hf_dummy")
        environment.delenv("HF_HUB_OFFLINE", raising=False)
        yield "hf://datasets/org/tiny", proxy


@contextmanager
def s3_store(folder: Path, plan: Plan | None = None) -> Iterator[tuple[str, Proxy]]:
    """An S3 server with the folder in a bucket; its settings are put into the environment."""
    pytest.importorskip("moto.server", reason="pip install s3fs 'moto[server]' runs the S3 tests")
    S3FileSystem = pytest.importorskip("s3fs").S3FileSystem
    _close_patiently()

    with faulty(_s3_server(), plan) as proxy, pytest.MonkeyPatch.context() as environment:
        for name, value in _aws(_s3_server()).items():
            environment.setenv(name, value)
        bucket = _uploaded(folder)
        environment.setenv("AWS_ENDPOINT_URL", proxy.address)
        S3FileSystem.clear_instance_cache()
        try:
            yield f"s3://{bucket}/corpora/tiny", proxy
        finally:
            S3FileSystem.clear_instance_cache()


@cache
def _close_patiently() -> None:
    """s3fs gives its loop a tenth of a second to close a session; on a busy machine one stays open, and warns."""
    from fsspec import asyn

    core = pytest.importorskip("s3fs.core")

    def sync(loop: Any, ask: Any, *arguments: Any, timeout: object = None, **named: Any) -> Any:
        return asyn.sync(loop, ask, *arguments, **named)

    core.sync = sync


@cache
def _s3_server() -> str:
    """Its address; one serves all tests of this process, since it takes a second or two to start."""
    ThreadedMotoServer = pytest.importorskip("moto.server").ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    return f"http://{host}:{port}"


@cache
def _google_server() -> str:
    """As `_s3_server`."""
    running = google()
    address = running.__enter__()
    atexit.register(running.__exit__, None, None, None)
    return address


@cache
def _uploaded(folder: Path) -> str:
    """The bucket that holds every file of the folder."""
    boto3 = pytest.importorskip("boto3")

    bucket = f"bucket-{hashlib.sha256(str(folder).encode()).hexdigest()[:12]}"
    client = boto3.client("s3")
    client.create_bucket(Bucket=bucket)
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            key = f"corpora/tiny/{path.relative_to(folder)}"
            client.put_object(Bucket=bucket, Key=key, Body=path.read_bytes())
    client.close()
    return bucket


def _aws(endpoint: str) -> dict[str, str]:
    return {
        "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "s3cr3t", "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": endpoint, "AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }  # fmt: skip


@contextmanager
def gs_store(folder: Path, plan: Plan | None = None) -> Iterator[tuple[str, Proxy]]:
    """Google's interface with the folder in a new bucket, on our double or the server that a variable names."""
    pytest.importorskip("gcsfs", reason="pip install gcsfs runs the tests of gs://")
    server = os.environ.get(GCS_VARIABLE) or _google_server()
    from cdgen.storage.google import OneTry

    bucket = f"bucket-{secrets.token_hex(6)}"
    with faulty(server, plan) as proxy, pytest.MonkeyPatch.context() as environment:
        environment.setenv("STORAGE_EMULATOR_HOST", server)
        OneTry.clear_instance_cache()
        files = OneTry()
        files.call("POST", "b", json={"name": bucket}, project="tests")
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                name = f"{bucket}/corpora/tiny/{path.relative_to(folder)}"
                files.pipe_file(name, path.read_bytes())
        environment.setenv("STORAGE_EMULATOR_HOST", proxy.address)
        OneTry.clear_instance_cache()
        try:
            yield f"gs://{bucket}/corpora/tiny", proxy
        finally:
            OneTry.clear_instance_cache()


def build_with(environment: dict[str, str], recipe: Path, address: str) -> None:
    """A driver in a process of its own, that can be killed."""
    from cdgen.builders.run import build

    os.environ.clear()
    os.environ.update(environment)
    build(recipe, address)


def resolve_with(environment: dict[str, str], recipe: Path, cache: Path) -> None:
    """Who looks for a recipe's inputs in a process of its own."""
    from cdgen.builders.inputs import resolve
    from cdgen.recipes.load import load_recipe

    os.environ.clear()
    os.environ.update(environment)
    resolve(load_recipe(recipe), cache)


BUCKETS: dict[str, Store] = {"s3": s3_store, "gs": gs_store}
STORES: dict[str, Store] = {"web": web_store, "hub": hub_store, "s3": s3_store}
