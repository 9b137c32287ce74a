"""Publishing into an object store or a folder: shards first, the manifest last: a reader sees all or nothing."""

from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from shutil import copyfileobj
from typing import Any, Protocol

from cdgen.errors import BuildError, UsageError
from cdgen.hub.contents import Item
from cdgen.progress import Progress
from cdgen.shards.layout import MANIFEST
from cdgen.storage import atomic_file, sha256_file
from cdgen.storage.drivers import limit_s
from cdgen.storage.objects import filesystem, passing
from cdgen.storage.remote import Retries, is_remote, shown


class Store(Protocol):
    """A place for files."""

    def listed(self) -> dict[str, int]:
        """Bytes of every file there, by path."""
        ...

    def holds(self, item: Item) -> bool:
        """Whether the item is there, as far as can be told without reading it all from far away."""
        ...

    def put(self, item: Item) -> None:
        """Write the item, complete or not at all."""
        ...


def publish_to_store(
    wanted: Sequence[Item], address: str, *, dry_run: bool, progress: Progress, retries: Retries
) -> list[Item]:
    """Send what is not there yet; returns it.

    Raises:
        UsageError: the place holds files of another corpus.
        BuildError: the store does not take them, or somebody else published there meanwhile.
    """
    store: Store = Bucket(address, retries) if is_remote(address) else Folder(Path(address))
    there = store.listed()
    foreign = _foreign(there, wanted)
    if foreign:
        raise UsageError(
            f"{shown(address)}: holds {len(foreign)} files that are not of this corpus, first {foreign[0][:120]}; "
            "choose an empty place"
        )
    # The manifest goes with the last file to arrive: a corpus without it is not there.
    missing = [item for item in wanted if item.path not in there or not store.holds(item)]
    if missing and missing[-1].path != MANIFEST:
        missing.append(wanted[-1])
    if dry_run:
        return missing
    with progress.stage("upload", total=sum(i.num_bytes for i in missing), unit="byte") as advance:
        for item in missing:
            store.put(item)
            advance(item.num_bytes)
    after = store.listed()
    wrong = next((item for item in wanted if after.get(item.path) != item.num_bytes), None)
    if wrong is not None:
        raise BuildError(f"{shown(address)}: {wrong.path} did not arrive whole; run the same again")
    foreign = _foreign(after, wanted) or ([] if store.holds(wanted[-1]) else [MANIFEST])
    if foreign:
        raise BuildError(
            f"{shown(address)}: somebody else published there at the same time, such as {foreign[0][:120]}; "
            "choose another place, or empty this one, and publish again"
        )
    return missing


def _foreign(there: Iterable[str], wanted: Sequence[Item]) -> list[str]:
    """What is there of another corpus."""
    paths = {item.path for item in wanted}
    return sorted(path for path in there if path not in paths)


class Folder:
    """A local folder, or one that is mounted."""

    def __init__(self, root: Path) -> None:
        self.root = root
        if root.exists() and not root.is_dir():
            raise UsageError(f"{root}: is a file; choose another folder")

    def listed(self) -> dict[str, int]:
        """Bytes of every file there, by path."""
        files = (
            [path for path in self.root.rglob("*") if path.is_file()] if self.root.is_dir() else []
        )
        return {path.relative_to(self.root).as_posix(): path.stat().st_size for path in files}

    def holds(self, item: Item) -> bool:
        """Whether the very bytes are there."""
        path = self.root / item.path
        return path.stat().st_size == item.num_bytes and sha256_file(path) == item.sha256

    def put(self, item: Item) -> None:
        """Copy the item under a temporary name, then rename it."""
        with atomic_file(self.root / item.path) as target:
            if item.file is None:
                target.write(item.content)
                return
            with item.file.open("rb") as source:
                copyfileobj(source, target, 1 << 20)


class Bucket:
    """A folder in an object store. Shards there go by name and size: their names hold the digest that made them."""

    def __init__(self, address: str, retries: Retries) -> None:
        self.address, self._retries = address.rstrip("/"), retries
        self._root = PurePosixPath(self.address.partition("://")[2])
        if len(self._root.parts) < 1:
            scheme = self.address.partition("://")[0]
            raise UsageError(
                f"{shown(address)}: names no bucket: {scheme}://bucket/folder is expected"
            )

    def _run(self, ask: Any, path: str = "") -> Any:
        where = f"{shown(self.address)}/{path}".rstrip("/")
        return self._retries.run(lambda: passing(ask, where), where)

    def listed(self) -> dict[str, int]:
        """Bytes of every file there, by path."""
        files = filesystem(self.address)
        found = self._run(lambda: files.find(str(self._root), detail=True, refresh=True))
        return {
            str(PurePosixPath(path).relative_to(self._root)): int(about["size"])
            for path, about in found.items()
        }

    def holds(self, item: Item) -> bool:
        """A big file by its size, a small one by its bytes."""
        path, files = f"{self._root}/{item.path}", filesystem(self.address)
        if item.is_big:
            return bool(self._run(lambda: files.size(path), item.path) == item.num_bytes)
        return bool(self._run(lambda: files.cat_file(path), item.path) == item.read())

    def put(self, item: Item) -> None:
        """One request, or a multipart upload that appears when it is complete."""
        path, files = f"{self._root}/{item.path}", filesystem(self.address)
        if item.file is None:
            within = limit_s(item.content)
            self._run(lambda: files.pipe_file(path, item.content, timeout=within), item.path)
        else:
            local, within = str(item.file), limit_s(item.file)
            self._run(lambda: files.put_file(local, path, timeout=within), item.path)
