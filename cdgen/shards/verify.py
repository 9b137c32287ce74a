"""Check a whole corpus: files, hashes, counts, every sample, and what must hold between samples.

Nothing is trusted and nothing stops the check: each fault is noted, and what can still be read is read.
"""

from collections import Counter
from collections.abc import Callable, Generator
from contextlib import closing, suppress
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from pathlib import Path

from cdgen.errors import BuildError, UsageError
from cdgen.processes import Processes
from cdgen.shards.between import Between, Fault
from cdgen.shards.check_shard import (
    Checked,
    Paths,
    Place,
    Problem,
    Rules,
    brought,
    check_brought,
    check_by_rules_at,
    kept_in_a_file,
    readable,
)
from cdgen.shards.files import ShardFiles
from cdgen.shards.findings import contaminated, finding_faults, read_findings
from cdgen.shards.layout import (
    KINDS,
    MANIFEST,
    index_path,
    parse_name,
    shard_path,
)
from cdgen.shards.manifest import (
    Manifest,
    ManifestShard,
    manifest_digest,
    read_manifest,
    totals,
)
from cdgen.shards.mix_check import MixCheck
from cdgen.shards.sample import Sample, split_repeat
from cdgen.shards.verdicts import Judged, near_pairs, read_verdicts, verdict_faults
from cdgen.storage import reading

STAGES = {"real": "text", "synthetic": "decode", "mixed": "mix"}
"""Whose digest is in the names of a kind's shards."""
NOT_FROM_AFAR = "whether there are files besides those of the manifest cannot be told from here"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What `verify` found."""

    problems: tuple[Problem, ...]
    counts: dict[str, int]
    """num_shards, num_bytes, num_samples, num_tokens; and <kind>_<split>_samples and _tokens of each group."""
    unchecked: str = ""
    """What cannot be checked where the corpus is."""

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


def verify(
    folder: Path,
    *,
    files: ShardFiles | None = None,
    progress: Callable[[int], None] | None = None,
    workers: int = 1,
) -> Report:
    """Check the corpus in `folder`.

    Args:
        folder: the corpus.
        files: its shards, if they are somewhere else: one after another is had, checked and let go, by each worker.
        progress: called after each shard with its size in bytes.
        workers: processes that check shards; this one alone if it is 1.

    Raises:
        UsageError: the folder holds no corpus at all.
        BuildError: the folder cannot be read. Everything else is a problem in the report.
    """
    if not (folder / MANIFEST).is_file() and not (folder / "data").is_dir():
        raise UsageError(f"{folder} is not a corpus: it has neither {MANIFEST} nor data/")
    with reading(folder):
        return _verified(_Check(folder, files), progress, workers)


def _verified(check: "_Check", progress: Callable[[int], None] | None, workers: int) -> Report:
    check.manifest()
    check.files()
    with closing(check.shards(workers)) as every:  # an interrupt ends its processes now
        for checked in every:
            if isinstance(checked, Problem):
                check.miss(checked)
                continue
            check.take(checked)
            if progress is not None:
                progress(checked.num_bytes)
    check.between()
    check.mix()
    return Report(
        problems=tuple(check.problems),
        counts=dict(check.counts),
        unchecked="" if check.files_of is None else NOT_FROM_AFAR,
    )


class _Check:
    """The state of one verification."""

    def __init__(self, folder: Path, files_of: ShardFiles | None = None) -> None:
        self.folder, self.files_of = folder, files_of
        self.problems: list[Problem] = []
        self.counts: Counter[str] = Counter(num_shards=0, num_bytes=0, num_samples=0, num_tokens=0)
        self._between = Between()
        self._names: list[str] = []
        """Of the shards that were checked."""
        self._told: list[tuple[int, Place, Problem]] = []
        """What is wrong in them, by the shard's number, not in order yet."""
        self._manifest: Manifest | None = None
        self._entries: dict[str, ManifestShard] = {}
        self._mix = MixCheck()
        self._judged: Judged | None = None
        self._dtype = ""

    def _problem(self, file: str, what: str, key: str = "") -> None:
        self.problems.append(Problem(file=file, key=key, what=what))

    def _judge(self, manifest: Manifest) -> Judged | None:
        """What makes the verdicts again. What takes a search is taken from the files, where it can be read there."""
        filters = manifest.filters
        if filters is None:
            return None
        judged, index = Judged(manifest), self.folder / "index"
        with suppress(BuildError):  # reported with the files
            if filters.contamination is not None and filters.contamination.action == "drop":
                found = read_findings(index / filters.contamination.findings.name)
                judged.contaminated = contaminated(found)
        with suppress(BuildError):
            if filters.near_dedup is not None:
                digest = manifest.digests.get("mix", "")
                judged.near = near_pairs(read_verdicts(index / filters.verdicts.name, digest))
        return judged

    # ---- the manifest and the list of files ----

    def manifest(self) -> None:
        """Read the manifest, and check what it says about itself."""
        try:
            found = read_manifest(self.folder)
        except BuildError as error:
            self._problem(MANIFEST, str(error))
            return
        self._manifest = self._mix.manifest = found
        self._entries = {entry.name: entry for entry in found.shards}
        self._judged = self._judge(found)
        if found.digest != manifest_digest(found.shards):
            self._problem(
                MANIFEST, "its digest is not the digest of its shards' names, hashes and counts"
            )
        if found.totals != totals(found.shards):
            self._problem(MANIFEST, "its totals are not the sums of its shards")
        numbers: dict[tuple[str, str, str], list[int]] = {}
        also = {info.named[:8] for info in found.also}
        for entry in found.shards:
            kind, split, short, number = parse_name(entry.name)
            numbers.setdefault((kind, split, short), []).append(number)
            own = found.named(STAGES[kind]).startswith(short)
            if not own and not (kind == "synthetic" and short in also):
                self._problem(
                    MANIFEST, f"{entry.name} does not belong to the {STAGES[kind]} digest"
                )
        self._also(found)
        for (kind, split, _), given in numbers.items():
            if sorted(given) != list(range(len(given))):
                self._problem(
                    MANIFEST, f"the {kind} {split} shards are not numbered 0 to {len(given) - 1}"
                )

    def _also(self, found: Manifest) -> None:
        """Every other corpus that is mixed in has exactly the shards that its entry stands for."""
        for info in found.also:
            start = f"synthetic-train-{info.named[:8]}-"
            held = [entry for entry in found.shards if entry.name.startswith(start)]
            if manifest_digest(held) != info.corpus:
                self._problem(MANIFEST, f"the shards of {info.label} are not those of its digest")

    def shard_names(self) -> list[str]:
        """The shards to check: real, then synthetic, then mixed ones."""
        if self._manifest is not None:
            names = {entry.name for entry in self._manifest.shards}
        else:
            names = {path.name for path in self.folder.glob("data/*/*.tar") if self._is_shard(path)}
        return sorted(names, key=lambda name: (KINDS.index(parse_name(name)[0]), name))

    def _is_shard(self, path: Path) -> bool:
        try:
            return shard_path(self.folder, path.name) == path
        except ValueError:
            return False

    def files(self) -> None:
        """Note every file in data/ and index/ that belongs to no shard."""
        names = self.shard_names()
        known = {shard_path(self.folder, name) for name in names}
        known |= {index_path(self.folder, name) for name in names}
        if self._manifest is not None and self._manifest.filters is not None:
            written = self._manifest.filters.files()
            known |= {self.folder / "index" / file.name for file in written}
        for top in ("data", "index"):
            for path in sorted((self.folder / top).rglob("*")):
                if path not in known and (path.is_symlink() or not path.is_dir()):
                    self._problem(str(path.relative_to(self.folder)), "is not in the manifest")

    # ---- the shards ----

    def shards(self, workers: int) -> Generator[Checked | Problem, None, None]:
        """Check every shard, in order; a problem of one that cannot be had from afar."""
        rules, todo = Rules.of(self._manifest, self._judged), map(self._paths, self.shard_names())
        if workers > 1:
            with (
                kept_in_a_file(rules, self.files_of) as at,
                Processes(workers, niceness=0) as processes,
            ):
                yield from processes.map(check_by_rules_at, ((paths, at) for paths in todo))
            return
        for paths in todo:
            yield check_brought(paths, rules, self.files_of)

    def miss(self, problem: Problem) -> None:
        """Note the next shard as one that cannot be had."""
        self._told.append((len(self._names), (-1, 0), problem))

    def take(self, checked: Checked) -> None:
        """Take in what was found in the next shard."""
        number = len(self._names)
        self._names.append(checked.name)
        self.counts.update(checked.counts)
        self._between.add(checked.traces)
        self._mix.join(checked.mix)
        if self._judged is not None and checked.judged is not None:
            self._judged.join(checked.judged)
        self._told += [(number, place, problem) for place, problem in checked.problems]
        self._dtype = self._dtype or min(checked.dtypes, default="")
        for odd in sorted(checked.dtypes - {self._dtype}):
            what = f"has ids of {odd}, where the corpus has {self._dtype}"
            last = len(checked.traces.key), 1
            self._told.append((number, last, Problem(file=checked.name, key="", what=what)))

    def between(self) -> None:
        """Check what must hold between samples, and put all that is wrong in shards in order."""
        for number, faults in groupby(self._between.faults(), key=attrgetter("shard")):
            told = list(faults)
            samples = self._samples(self._names[number], {fault.sample for fault in told})
            for fault in told:
                problem = _about(fault, self._names[number], samples.get(fault.sample))
                self._told.append((number, (fault.sample, 1), problem))
        self._told.sort(key=lambda told: told[:2])
        self.problems += [problem for _, _, problem in self._told]

    def _samples(self, name: str, numbers: set[int]) -> dict[int, Sample]:
        """Some of a shard's samples, by number: few are wrong, and only then are their names read again."""
        try:
            with brought(self._paths(name), self.files_of) as paths:
                every = enumerate(readable(paths.shard))
                return {number: sample for number, sample in every if number in numbers}
        except BuildError:
            return {}  # it was there a while ago

    def _paths(self, name: str) -> Paths:
        shard, index = shard_path(self.folder, name), index_path(self.folder, name)
        return Paths(name=name, shard=shard, index=index, entry=self._entries.get(name))

    # ---- the mix ----

    def mix(self) -> None:
        """Compare the mixed shards with the manifest, and the verdicts with the samples."""
        for what in self._mix.faults():
            self._problem(MANIFEST, what)
        if self._judged is not None and self._manifest and self._manifest.filters:
            name = self._manifest.filters.verdicts.name
            for key, what in verdict_faults(self.folder, self._judged, self._between.in_mix):
                self._problem(f"index/{name}", what, key)
            searched = self._manifest.filters.contamination
            if searched is not None:
                for what in finding_faults(self.folder, self._manifest, searched):
                    self._problem(f"index/{searched.findings.name}", what)


def _about(fault: Fault, file: str, sample: Sample | None) -> Problem:
    """A fault with the names that its traces do not have."""
    if sample is None:
        return Problem(file=file, key="", what=fault.what)
    use, document = split_repeat(sample.key)[1] - 1, sample.meta.document[:40]
    what = fault.what.replace("{use}", str(use)).replace("{document}", document)
    return Problem(file=file, key=sample.key, what=what)
