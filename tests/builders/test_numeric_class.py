"""What tells two machines' bits apart, on machines that are not this one."""

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from cdgen.builders import numeric_class

_DRIVER = """#!/bin/sh
case "$1" in
    --id=0) echo "NVIDIA H200" ;;
    --id=1) echo "NVIDIA L4" ;;
    *) echo "No devices were found"; exit 6 ;;
esac
"""


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    numeric_class._machine.cache_clear()
    yield
    numeric_class._machine.cache_clear()


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with two GPUs, as far as its driver's tool says."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text(_DRIVER)
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def installed(monkeypatch: pytest.MonkeyPatch, **versions: str) -> None:
    def version(name: str) -> str:
        if name not in versions:
            raise PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(numeric_class, "version", version)


@pytest.mark.usefixtures("driver")
def test_on_a_gpu_the_build_of_torch_and_the_kernels_count(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, torch="2.11.0+cu130", transformers="5.23.0", triton="3.6.0")

    assert numeric_class._machine() == {
        "device": "NVIDIA H200",
        "torch": "2.11.0+cu130",
        "transformers": "5.23.0",
        "kernels": "triton 3.6.0",
    }


@pytest.mark.usefixtures("driver")
def test_without_triton_it_is_another_class(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, torch="2.11.0+cu130", transformers="5.23.0")

    assert numeric_class._machine()["kernels"] == "torch"


@pytest.mark.usefixtures("driver")
def test_the_gpu_is_the_first_visible_one(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, torch="2.11.0+cu130", transformers="5.23.0")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")

    assert numeric_class._machine()["device"] == "NVIDIA L4"


@pytest.mark.usefixtures("driver")
@pytest.mark.parametrize(("torch", "visible"), [("2.13.0+cpu", "0"), ("2.13.0", "")])
def test_a_gpu_that_torch_cannot_use_does_not_count(
    torch: str, visible: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A torch without CUDA, or all GPUs hidden: decoding runs on the CPU, and the class says so."""
    installed(monkeypatch, torch=torch, transformers="5.23.0")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    machine = numeric_class._machine()

    assert "NVIDIA" not in machine["device"]
    assert machine["torch"] == "2.13.0" and "kernels" not in machine
