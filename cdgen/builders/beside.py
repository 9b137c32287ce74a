"""What is done in processes beside the decoding: looking at finished shards for the filters, writing mixed shards.

Both are pure functions of files that are there, so where and when they are done changes nothing.
"""

from concurrent.futures import Future
from pathlib import Path

from cdgen.builders.estimate import memory_bytes
from cdgen.builders.evaluation import Evaluation, files_of, is_searched
from cdgen.builders.profile import Profile
from cdgen.mixing.traits import Traits, Wanted, traits, wanted_of
from cdgen.processes import Processes, processors
from cdgen.recipes.schema import Filters
from cdgen.shards.layout import index_path, shard_path
from cdgen.shards.reader import MappedShard
from cdgen.storage import Receipt

SMALL_TOKENS = 20_000_000
"""Of real and synthetic text together: for less, processes take longer to begin than they save."""
MOST_PROCESSES = 16
_PROCESS_BYTES = 200 << 20
_SAMPLE_BYTES = 400
"""Of a process's memory for each sample of the shards that it copies from: their indexes."""


class Beside:
    """Looks at the shards of a corpus folder, begun as soon as they are there.

    Args:
        processes: that do the work.
        wanted: what the filters have to know; None = there are no filters.
        out: the corpus folder.
    """

    def __init__(self, processes: Processes, wanted: Wanted | None, out: Path) -> None:
        self.processes = processes
        self._wanted, self._out = wanted, out
        self._traits: dict[str, Future[Traits]] = {}

    def begin(self, *receipts: Receipt) -> None:
        """Have finished shards looked at, where that is not this process's own work."""
        if self.processes.number and self._wanted is not None:
            for receipt in receipts:
                self._begun(receipt.name)

    def traits(self, shard: MappedShard) -> Traits:
        """What there is to know of a shard; waits for it. BuildError: the shard is damaged."""
        return self._begun(shard.path.name).result()

    def _begun(self, name: str) -> "Future[Traits]":
        assert self._wanted is not None, "there are no filters"
        if name not in self._traits:
            paths = shard_path(self._out, name), index_path(self._out, name)
            self._traits[name] = self.processes.submit(_found, *paths, self._wanted)
        return self._traits[name]


def _found(path: Path, index: Path, wanted: Wanted) -> Traits:
    with MappedShard(path, index) as shard:
        return traits(shard, wanted)


def wanted_for(out: Path, filters: Filters | None, evaluation: Evaluation | None) -> Wanted | None:
    """What filters have to know of the shards of a folder; what an earlier search found there is not searched again."""
    if filters is None:
        return None
    if evaluation is None or is_searched(out, evaluation):
        return wanted_of(filters)
    return wanted_of(filters, files_of(evaluation))


def num_processes(profile: Profile | None, *, num_tokens: int, num_samples: int) -> int:
    """How many processes work beside a build of so much text: as the profile says, or as this machine allows."""
    if profile is not None and profile.processes is not None:
        return profile.processes
    if num_tokens < SMALL_TOKENS:
        return 0
    fit = memory_bytes() // 4 // (_PROCESS_BYTES + _SAMPLE_BYTES * num_samples)
    return max(1, min(processors(), MOST_PROCESSES, fit))
