"""gs:// one try at a time. What needs a server with Google's interface is in the tests of buckets."""

from collections.abc import Iterator

import pytest
from faulty_proxy import Proxy, faulty

from cdgen.errors import BuildError
from cdgen.storage.conditional import Objects
from cdgen.storage.remote import Retries

pytest.importorskip("gcsfs", reason="pip install gcsfs runs the tests of gs://")


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A server that only refuses; the store's address points to it."""
    from cdgen.storage.google import OneTry

    with faulty("http://127.0.0.1:9") as proxy:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", proxy.address)
        OneTry.clear_instance_cache()
        yield proxy
        OneTry.clear_instance_cache()


@pytest.mark.parametrize("fault", ["503", "429"])
def test_the_librarys_own_tries_do_not_multiply_ours(proxy: Proxy, fault: str) -> None:
    """gcsfs asks six times, with waits of its own, where its decorator stands."""
    waits: list[float] = []
    objects = Objects("gs://bucket/folder", Retries(tries=3, sleep=waits.append))
    proxy.plan = lambda *_: fault
    for ask in (
        lambda: objects.stat("a"),
        lambda: objects.read("a"),
        lambda: objects.create("a", b"text"),
        objects.listed,
    ):
        proxy.commands.clear()
        with pytest.raises(BuildError, match=r"the store does not answer \(.*\), 3 times"):
            ask()
        assert sum(proxy.commands.values()) == 3
    assert len(waits) == 4 * 2


@pytest.mark.parametrize("status", ["401", "403"])
def test_a_refusal_is_no_fault_that_passes(proxy: Proxy, status: str) -> None:
    objects = Objects("gs://bucket/folder", Retries(sleep=lambda _: None))
    proxy.plan = lambda *_: status
    for ask in (lambda: objects.stat("a"), lambda: objects.create("a", b"text")):
        proxy.commands.clear()
        with pytest.raises(BuildError, match="access is refused; check your credentials"):
            ask()
        assert sum(proxy.commands.values()) == 1
