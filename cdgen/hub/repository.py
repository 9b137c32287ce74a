"""A dataset repository on the Hugging Face Hub, written so that a reader sees all of a corpus or what was there before.

Content goes up first and is invisible. One commit, or the merge of one pull request, then makes all of it visible; what
is visible is compared with what was meant; only then is it tagged. Each step may be done again: what is there already
is not sent twice. Stock `upload_folder` makes several commits on `main`, with the card in the first.
"""

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from cdgen.errors import BuildError, UsageError
from cdgen.hub.contents import Item
from cdgen.storage.remote import PassingError, Retries

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, HfApi

MOST_FILES = 200
"""In one commit: the Hub gives a commit a minute."""

_BATCH_FILES, _BATCH_BYTES = 50, 1 << 30

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Remote:
    """A file as the Hub lists it: SHA-256 of big files, the git blob's SHA-1 of small ones."""

    oid: str
    num_bytes: int

    def is_item(self, item: Item) -> bool:
        """Whether it has the item's content."""
        if self.num_bytes != item.num_bytes:
            return False
        return self.oid == item.sha256 or (not item.is_big and self.oid == _blob_sha1(item.read()))


class Repository:
    """A dataset repository and one of its branches.

    Args:
        repo_id: owner/name.
        branch: main, or another one, which is made if it is not there.
        api: huggingface_hub's client.
        retries: what is done about faults that may pass.
    """

    def __init__(self, repo_id: str, branch: str, api: "HfApi", retries: Retries) -> None:
        self.repo_id, self.branch = repo_id, branch
        self._api, self._retries = api, retries
        self._additions: dict[Item, CommitOperationAdd] = {}

    @property
    def where(self) -> str:
        """Its address."""
        at = "" if self.branch == "main" else f"@{self.branch}"
        return f"hf://datasets/{self.repo_id}{at}"

    def create(self, *, private: bool) -> None:
        """Make the repository and the branch, where they are not there. An existing one keeps its visibility."""
        self._call(
            lambda: self._api.create_repo(
                self.repo_id, repo_type="dataset", private=private or None, exist_ok=True
            )
        )
        if self.branch != "main":
            self._call(
                lambda: self._api.create_branch(
                    self.repo_id, branch=self.branch, repo_type="dataset", exist_ok=True
                )
            )

    def head(self, revision: str | None = None) -> str | None:
        """The newest commit of the branch (or of `revision`); None where there is no such repository or branch."""
        from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

        def asked() -> str | None:
            try:
                info = self._api.repo_info(
                    self.repo_id, repo_type="dataset", revision=revision or self.branch
                )
            except (RepositoryNotFoundError, RevisionNotFoundError):
                return None
            return info.sha

        return self._call(asked)

    def tree(self, commit: str) -> dict[str, Remote]:
        """Every file of a commit, by path."""
        from huggingface_hub.hf_api import RepoFile

        def listed() -> dict[str, Remote]:
            files = self._api.list_repo_tree(
                self.repo_id, recursive=True, revision=commit, repo_type="dataset"
            )
            return {
                file.path: Remote(file.lfs.sha256 if file.lfs else file.blob_id, file.size)
                for file in files
                if isinstance(file, RepoFile)
            }

        return self._call(listed)

    def upload(
        self, items: Sequence[Item], on_bytes: Callable[[int], None] = lambda _: None
    ) -> "list[CommitOperationAdd]":
        """Send the content of some files. It stays invisible until it is committed; what was sent before is not again.

        Raises:
            BuildError: a file is not what its manifest says, or the Hub does not take it.
        """
        for batch in _batches(items):
            self._additions |= {
                item: self._addition(item) for item in batch if item not in self._additions
            }
            self._send([self._additions[item] for item in batch])
            on_bytes(sum(item.num_bytes for item in batch))
        return [self._additions[item] for item in items]

    def _addition(self, item: Item) -> "CommitOperationAdd":
        from huggingface_hub import CommitOperationAdd

        source = str(item.file) if item.file else item.content
        addition = CommitOperationAdd(path_in_repo=item.path, path_or_fileobj=source)
        if addition.upload_info.sha256.hex() != item.sha256:
            raise BuildError(
                f"{item.file}: is damaged: its SHA-256 is not the manifest's; run cdgen verify"
            )
        return addition

    def _send(self, additions: "list[CommitOperationAdd]") -> None:
        self._call(
            lambda: self._api.preupload_lfs_files(
                self.repo_id,
                additions=additions,
                repo_type="dataset",
                revision=self.branch,
                free_memory=False,
            )
        )

    def commit(
        self,
        additions: "Sequence[CommitOperationAdd]",
        stale: Sequence[str],
        *,
        parent: str,
        message: str,
        is_done: Callable[[str], bool],
        revision: str | None = None,
    ) -> str:
        """Make uploaded files visible, and others vanish, in one commit; returns it.

        Args:
            additions: what `upload` returned.
            stale: paths to delete.
            parent: the commit that this one follows; if another one came first, nothing is done.
            message: the commit's title.
            is_done: whether a commit holds all of this: an answer may be lost on the way after it was made.
            revision: where; the branch by default.

        Raises:
            BuildError: somebody else committed at the same time, or the Hub refuses.
        """
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        where = revision or self.branch
        operations: list[CommitOperationAdd | CommitOperationDelete] = list(additions)
        operations += [CommitOperationDelete(path_in_repo=path) for path in stale]

        def attempt() -> str:
            now = self.head(where)
            if now is not None and now != parent:
                if is_done(now):
                    return now
                raise BuildError(
                    f"{self.where}: somebody else committed at the same time; nothing was changed: run the same again"
                )
            try:
                made = self._api.create_commit(
                    self.repo_id,
                    operations,
                    commit_message=message,
                    repo_type="dataset",
                    revision=where,
                    parent_commit=parent,
                )
            except Exception as error:
                raise self._fault(error, passing=(412,)) from error
            return made.oid

        return self._retries.run(attempt, self.where)

    def open_proposal(self, title: str) -> tuple[int, str]:
        """(number, revision) of this account's open pull request of that title; a new one if there is none."""

        def found() -> tuple[int, str]:
            for one in self._api.get_repo_discussions(
                self.repo_id, repo_type="dataset", discussion_type="pull_request"
            ):
                if one.title == title and one.status in ("draft", "open"):
                    return one.num, f"refs/pr/{one.num}"
            made = self._api.create_pull_request(self.repo_id, title, repo_type="dataset")
            return made.num, f"refs/pr/{made.num}"

        return self._call(found)

    def merge(self, number: int, *, parent: str, is_done: Callable[[str], bool]) -> str:
        """Make a pull request's files visible on `main`, all at once; returns the commit."""

        def attempt() -> str:
            now = self.head()
            assert now is not None
            if now != parent:
                if is_done(now):
                    return now
                raise BuildError(
                    f"{self.where}: somebody else committed at the same time; nothing was changed: run the same again"
                )
            try:
                status = self._api.get_discussion_details(
                    self.repo_id, number, repo_type="dataset"
                ).status
                if status == "draft":
                    self._api.change_discussion_status(
                        self.repo_id, number, "open", repo_type="dataset"
                    )
                self._api.merge_pull_request(self.repo_id, number, repo_type="dataset")
            except Exception as error:
                raise self._fault(error, passing=(409,)) from error
            merged = self.head()
            assert merged is not None
            return merged

        return self._retries.run(attempt, self.where)

    def tag(self, name: str, commit: str) -> None:
        """Name a commit; a tag of that name that is there already stays."""
        self._call(
            lambda: self._api.create_tag(
                self.repo_id, tag=name, revision=commit, repo_type="dataset", exist_ok=True
            )
        )

    def _call(self, ask: Callable[[], T]) -> T:
        def attempt() -> T:
            try:
                return ask()
            except Exception as error:
                raise self._fault(error) from error

        return self._retries.run(attempt, self.where)

    def _fault(self, error: Exception, passing: Sequence[int] = ()) -> Exception:
        """What an error of the client means: worth another try, or one line for the user."""
        from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

        if isinstance(error, BuildError | UsageError | PassingError):
            return error
        if isinstance(error, OfflineModeIsEnabled):
            return UsageError(f"{self.where}: HF_HUB_OFFLINE is set; unset it to publish")
        while isinstance(error, RuntimeError) and isinstance(error.__cause__, Exception):
            error = error.__cause__  # an upload's: the client tells only the file's name
        response = getattr(error, "response", None)
        status = getattr(response, "status_code", None)
        if status is None and not isinstance(error, HfHubHTTPError):
            if _has_no_xet(error):
                return UsageError(
                    f"{self.where}: this Hub has no Xet storage, which the client does not notice; set "
                    "HF_HUB_DISABLE_XET=1 and run the same again"
                )
            if _is_network(error):
                return PassingError(f"{type(error).__name__}: no answer")
            return BuildError(f"{self.where}: {_first_line(error)}")
        if status in (408, 429) or (status or 500) >= 500 or status in passing:
            wait = response.headers.get("Retry-After", "") if response is not None else ""
            return PassingError(f"answered {status}", float(wait) if wait.isdecimal() else None)
        if status in (401, 403, 404):
            return UsageError(
                f"{self.where}: refused ({status}: {_first_line(error)}); log in with `hf auth login`, or set "
                "HF_TOKEN to a token that may write there"
            )
        return BuildError(f"{self.where}: refused: {_first_line(error)}")


def _batches(items: Sequence[Item]) -> Iterator[list[Item]]:
    """Files to send in one go: few enough to lose little, many enough to ask seldom."""
    batch: list[Item] = []
    for item in items:
        if batch and (len(batch) == _BATCH_FILES or sum(i.num_bytes for i in batch) > _BATCH_BYTES):
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch


def _has_no_xet(error: Exception) -> bool:
    """Whether asking for the right to upload by Xet led nowhere; hf-xet tells it as a failure of the connection."""
    return bool(re.search(r"client error \(404\b.*/xet-write-token/", str(error)))


def _is_network(error: Exception) -> bool:
    """Whether a client library says that a connection failed: httpx and requests both derive from these."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return isinstance(error, ConnectionError | TimeoutError) or bool(
        names & {"TransportError", "RequestException", "ConnectionError", "TimeoutException"}
    )


def _first_line(error: Exception) -> str:
    """What the Hub said; its client adds advice of its own."""
    said = getattr(error, "server_message", None) or str(error)
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:200]


def _blob_sha1(data: bytes) -> str:
    """What git calls a file with this content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
