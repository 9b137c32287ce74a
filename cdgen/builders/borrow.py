"""What a corpus of one sweep already has, put into another one's folder: text and decoded shards of the same digest.

Files are hard links where the file system can, else copies. A corpus's files are only ever replaced, never rewritten,
so a shared file cannot change under either.
"""

from collections.abc import Iterable
from pathlib import Path

from cdgen.builders.bring import place
from cdgen.builders.stages import prefix_table, text_record
from cdgen.recipes.digests import Digests
from cdgen.shards.layout import index_path, shard_path
from cdgen.storage import FileStamp, Receipt, atomic_write, matches, read_receipts, write_receipt

RECEIPTS = Path("work/receipts")


def borrow(out: Path, others: Iterable[Path], digests: Digests) -> int:
    """Bring finished real and synthetic shards of these digests into `out`; returns how many.

    Args:
        out: the corpus folder that will be built; may not be there yet.
        others: corpus folders, finished or not.
        digests: of the corpus that will be built.
    """
    brought = 0
    for other in others:
        theirs = read_receipts(other / RECEIPTS)
        for receipt in theirs.values():
            if receipt.digest in (digests.text, digests.decode):
                brought += _bring(other, out, receipt)
        _bring_text_record(other, out, digests)
    return brought


def _bring(other: Path, out: Path, receipt: Receipt) -> bool:
    """One shard, its index, and last its receipt; False when it is there already, or is not whole."""
    source, target = shard_path(other, receipt.name), shard_path(out, receipt.name)
    if not matches(receipt, source) or matches(receipt, target):
        return False
    stamp = FileStamp(name=receipt.name, sha256=receipt.sha256, num_bytes=receipt.num_bytes)
    place(source, target, stamp)
    place(index_path(other, receipt.name), index_path(out, receipt.name), receipt.index)
    write_receipt(out / RECEIPTS, receipt)
    return True


def _bring_text_record(other: Path, out: Path, digests: Digests) -> None:
    """The prefix table, then the note that the text is whole."""
    for path_of in (prefix_table, text_record):
        source, target = path_of(other, digests), path_of(out, digests)
        if source.is_file() and not target.is_file():
            atomic_write(target, source.read_bytes())
