"""`cdgen publish`: a finished corpus, whole or not at all, on the Hub, in an object store or in a folder."""

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cdgen.corpus import Corpus, open_folder
from cdgen.errors import BuildError, UsageError
from cdgen.hub.contents import Item, contents, mirror_items
from cdgen.hub.follow import upload_while_building
from cdgen.hub.license import check_license
from cdgen.hub.repository import MOST_FILES, Remote, Repository
from cdgen.hub.stores import publish_to_store
from cdgen.progress import Progress, Quiet
from cdgen.shards.manifest import Manifest
from cdgen.storage.remote import PATIENT, Retries, is_remote, shown

if TYPE_CHECKING:
    from huggingface_hub import HfApi

PART_FILES = 100
"""In one commit of a pull request."""

_OWN = ("data/", "index/", "parquet/", "tokenizer/")
"""Folders of the repository that hold nothing but the corpus."""
_ADDRESS = re.compile(r"hf://datasets/(?P<repository>[\w.-]+/[\w.-]+)(@(?P<branch>[^@?#]+))?/?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """What was published, or with `dry_run` would be.

    Attributes:
        where: the address.
        manifest_digest: of the corpus.
        commit, tag: on the Hub; "" elsewhere.
        num_files, num_bytes: of the corpus.
        num_sent_files, num_sent_bytes: of those, what was not there yet.
        deleted: files of an earlier version that are no longer visible.
        dry_run: nothing was sent.
    """

    where: str
    manifest_digest: str
    commit: str = ""
    tag: str = ""
    num_files: int
    num_bytes: int
    num_sent_files: int
    num_sent_bytes: int
    deleted: tuple[str, ...] = ()
    dry_run: bool = False


def publish(
    folder: str | Path,
    address: str,
    *,
    private: bool = False,
    dry_run: bool = False,
    follow: bool = False,
    parquet: bool = False,
    progress: Progress | None = None,
    retries: Retries = PATIENT,
    api: "HfApi | None" = None,
    sleep: Callable[[float], None] = time.sleep,
) -> Published:
    """Publish a finished corpus. Doing the same again sends only what is missing.

    Args:
        folder: the corpus.
        address: hf://datasets/owner/name[@branch], s3://bucket/folder, gs://bucket/folder, or a folder.
        private: of a repository that is made now.
        dry_run: say what would be sent, and send nothing.
        follow: the corpus may still be in the making: send shards as they come; they become visible at the end.
        parquet: besides the shards, a Parquet copy of each, which the card's configurations then name.
        progress: told of the bytes.
        retries: what is done about faults that may pass.
        api: huggingface_hub's client.
        sleep: waits so many seconds, with `follow`.

    Raises:
        UsageError: a wrong address, no finished corpus, a licence that cannot be told, or no right to write there.
        BuildError: a file is damaged, or the other side does not take it; what is visible there is as it was.
    """
    progress = progress or Quiet()
    found = _ADDRESS.fullmatch(address)
    if address.startswith("hf://") and not found:
        raise UsageError(
            f"{shown(address)}: hf://datasets/<owner>/<name>, perhaps with @<branch>, is expected"
        )
    if found is None:
        for option, is_asked in (("follow", follow), ("private", private)):
            if is_asked:
                raise UsageError(
                    f"{shown(address)}: --{option} needs an address on the Hub: hf://datasets/…"
                )
        return _to_store(
            Path(folder),
            address,
            dry_run=dry_run,
            parquet=parquet,
            progress=progress,
            retries=retries,
        )
    repository = Repository(found["repository"], found["branch"] or "main", api or _api(), retries)
    if follow and not dry_run:
        if repository.head() is None:
            repository.create(private=private)
        upload_while_building(Path(folder), repository.upload, progress=progress, sleep=sleep)
    corpus, wanted = _ready(folder, parquet=parquet, progress=progress)
    return _to_hub(
        repository, corpus.manifest, wanted, private=private, dry_run=dry_run, progress=progress
    )


def _to_hub(
    repository: Repository,
    manifest: Manifest,
    wanted: Sequence[Item],
    *,
    private: bool,
    dry_run: bool,
    progress: Progress,
) -> Published:
    plan = _Plan.of(repository, wanted)
    if plan.is_large and repository.branch != "main":
        raise UsageError(
            f"{repository.where}: more than {MOST_FILES} files are published through a pull request, which only main "
            "can have; leave the branch out"
        )
    tag = f"cdgen-{manifest.digest[:16]}"
    commit = plan.head or ""
    if not dry_run:
        if plan.head is None:  # who may write to a repository may not be the one who may make it
            repository.create(private=private)
        message = f"{manifest.name} ({manifest.digest[:16]})"
        commit = _publish(repository, plan, wanted, message, progress)
        _check(repository, commit, wanted)
        _tag(repository, tag, commit)
    return Published(
        where=repository.where,
        manifest_digest=manifest.digest,
        commit=commit,
        tag=tag,
        num_files=len(wanted),
        num_bytes=sum(item.num_bytes for item in wanted),
        num_sent_files=len(plan.missing),
        num_sent_bytes=sum(item.num_bytes for item in plan.missing),
        deleted=plan.stale,
        dry_run=dry_run,
    )


def _ready(folder: str | Path, *, parquet: bool, progress: Progress) -> tuple[Corpus, list[Item]]:
    """(a finished corpus that may be published, every file of it)."""
    corpus = open_folder(folder)
    check_license(corpus)
    return corpus, contents(corpus, mirror=mirror_items(corpus, progress) if parquet else ())


def _api() -> "HfApi":
    from huggingface_hub import HfApi
    from huggingface_hub.utils.tqdm import disable_progress_bars

    from cdgen import __version__

    disable_progress_bars()  # there is one of our own
    return HfApi(library_name="cdgen", library_version=__version__)


@dataclass(frozen=True, slots=True)
class _Plan:
    """What a repository lacks: its head, the files to send, the files of an earlier version."""

    head: str | None
    missing: tuple[Item, ...]
    stale: tuple[str, ...]

    @classmethod
    def of(cls, repository: Repository, wanted: Sequence[Item]) -> "_Plan":
        head = repository.head()
        there = repository.tree(head) if head else {}
        paths = {item.path for item in wanted}
        stale = sorted(path for path in there if path.startswith(_OWN) and path not in paths)
        return cls(head, tuple(_missing(there, wanted)), tuple(stale))

    @property
    def is_large(self) -> bool:
        """Whether it is too much for one commit."""
        return len(self.missing) + len(self.stale) > MOST_FILES


def _missing(there: Mapping[str, Remote], wanted: Sequence[Item]) -> list[Item]:
    return [item for item in wanted if item.path not in there or not there[item.path].is_item(item)]


def _publish(
    repository: Repository,
    plan: _Plan,
    wanted: Sequence[Item],
    message: str,
    progress: Progress,
) -> str:
    """Send what is missing and make it visible; returns the commit that has it all."""
    parent = plan.head or repository.head()
    if parent is None:
        raise BuildError(f"{repository.where}: was made, but cannot be read")
    if not plan.missing and not plan.stale:
        return parent
    total = sum(item.num_bytes for item in plan.missing)
    with progress.stage("upload", total=total, unit="byte") as advance:
        additions = repository.upload(plan.missing, advance)

    def is_done(commit: str) -> bool:
        there = repository.tree(commit)
        return not _missing(there, wanted) and not set(plan.stale) & there.keys()

    if not plan.is_large:
        return repository.commit(
            additions, plan.stale, parent=parent, message=message, is_done=is_done
        )
    number, revision = repository.open_proposal(f"cdgen: {message}")
    _propose(repository, revision, plan, wanted, message)
    return repository.merge(number, parent=parent, is_done=is_done)


def _propose(
    repository: Repository, revision: str, plan: _Plan, wanted: Sequence[Item], message: str
) -> None:
    """Bring a pull request to what is wanted, in commits of few files, the describing ones last."""
    head = repository.head(revision)
    assert head is not None
    there = repository.tree(head)
    missing = _missing(there, wanted)
    stale = [path for path in plan.stale if path in there]
    parts = [missing[first : first + PART_FILES] for first in range(0, len(missing), PART_FILES)]
    parts += [[]] if stale and not parts else []
    for number, part in enumerate(parts, 1):

        def is_done(commit: str, part: Sequence[Item] = part) -> bool:
            return not _missing(repository.tree(commit), part)

        head = repository.commit(
            repository.upload(part),
            stale if number == len(parts) else (),
            parent=head,
            message=f"{message}, part {number} of {len(parts)}",
            is_done=is_done,
            revision=revision,
        )


def _check(repository: Repository, commit: str, wanted: Sequence[Item]) -> None:
    """What is visible must be what was meant."""
    wrong = _missing(repository.tree(commit), wanted)
    if wrong:
        raise BuildError(
            f"{repository.where}: {len(wrong)} files are not there or differ after the commit {commit[:8]}, first "
            f"{wrong[0].path}; it was not tagged: run the same again"
        )


def _tag(repository: Repository, tag: str, commit: str) -> None:
    try:
        repository.tag(tag, commit)
    except BuildError as error:
        raise BuildError(
            f"{error}; the corpus is complete and visible, but not tagged: run the same again"
        ) from None


def _to_store(
    folder: Path,
    address: str,
    *,
    dry_run: bool,
    parquet: bool,
    progress: Progress,
    retries: Retries,
) -> Published:
    if is_remote(address) and not address.startswith(("s3://", "gs://")):
        raise UsageError(
            f"{shown(address)}: cannot be written; hf://datasets/<owner>/<name>, s3://, gs:// or a folder is expected"
        )
    corpus, wanted = _ready(folder, parquet=parquet, progress=progress)
    sent = publish_to_store(wanted, address, dry_run=dry_run, progress=progress, retries=retries)
    return Published(
        where=shown(address) if is_remote(address) else address,
        manifest_digest=corpus.manifest.digest,
        num_files=len(wanted),
        num_bytes=sum(item.num_bytes for item in wanted),
        num_sent_files=len(sent),
        num_sent_bytes=sum(item.num_bytes for item in sent),
        dry_run=dry_run,
    )
