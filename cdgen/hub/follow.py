"""Publishing while building: shards go up as they are finished, and wait there unseen for the manifest."""

from collections.abc import Callable, Sequence
from pathlib import Path

from cdgen.builders.status import status
from cdgen.errors import BuildError, UsageError
from cdgen.hub.contents import Item
from cdgen.progress import Progress
from cdgen.shards.layout import MANIFEST, index_path, shard_path
from cdgen.storage import Receipt, holder, matches, read_receipts

LOOK_EVERY_S = 2.0


def upload_while_building(
    folder: Path,
    upload: Callable[[Sequence[Item]], object],
    *,
    progress: Progress,
    sleep: Callable[[float], None],
) -> None:
    """Send finished shards until no build holds the folder.

    Args:
        folder: where a build is at work, or was.
        upload: sends files.
        progress: told of every shard.
        sleep: waits so many seconds.

    Raises:
        UsageError: no build was ever begun there.
        BuildError: the build ended without a corpus.
    """
    if not (folder / "work").is_dir() and not (folder / MANIFEST).is_file():
        raise UsageError(
            f"{folder}: no build was begun here; begin it in another shell, then publish"
        )
    sent: set[str] = set()
    with progress.stage("follow", total=None, unit="shard") as advance:
        while True:
            is_building = holder(folder) is not None
            finished = _finished(folder, sent)
            for receipt in finished:
                upload(_items(folder, receipt))
                sent.add(receipt.name)
                advance(1)
            if not is_building:
                break
            if not finished:
                sleep(LOOK_EVERY_S)
    if not (folder / MANIFEST).is_file() or _is_interrupted(folder):
        raise BuildError(
            f"{folder}: the build ended without a corpus; nothing is visible: build it, then publish again"
        )


def _is_interrupted(folder: Path) -> bool:
    """Whether the last build there did not come to its end: a manifest that is there is of an earlier one.

    A corpus that came here without the log of its build has none.
    """
    try:
        return status(folder).state != "complete"
    except UsageError:
        return False


def _finished(folder: Path, sent: set[str]) -> list[Receipt]:
    """Shards that are complete and were not sent, by name."""
    receipts = read_receipts(folder / "work/receipts", but=sent)
    return [
        receipt
        for name, receipt in sorted(receipts.items())
        if matches(receipt, shard_path(folder, name))
    ]


def _items(folder: Path, receipt: Receipt) -> list[Item]:
    tar, index = shard_path(folder, receipt.name), index_path(folder, receipt.name)
    return [
        Item(tar.relative_to(folder).as_posix(), receipt.num_bytes, receipt.sha256, tar),
        Item(
            index.relative_to(folder).as_posix(),
            receipt.index.num_bytes,
            receipt.index.sha256,
            index,
        ),
    ]
