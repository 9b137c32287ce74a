"""A dataset repository of the Hugging Face Hub, at one commit, read as a web folder."""

import os
import re

from cdgen.errors import BuildError, UsageError
from cdgen.storage.http import WebFolder
from cdgen.storage.jsons import parse_json
from cdgen.storage.remote import PATIENT, MissingError, Retries, read_whole

_ADDRESS = re.compile(
    r"hf://datasets/(?P<repository>[\w.-]+/[\w.-]+)(@(?P<revision>[^/@?#]+))?(?P<folder>(/[^/?#]+)*)/?"
)
_HELP = "check its name, or log in with `hf auth login` (or set HF_TOKEN) if it is private or gated"
_YES = ("1", "ON", "YES", "TRUE")


def hub_folder(address: str, *, retries: Retries = PATIENT) -> WebFolder:
    """The folder at hf://datasets/<owner>/<name>[@<revision>][/<folder>], at the commit that the revision names now.

    Raises:
        UsageError: another form of address, or HF_HUB_OFFLINE is set.
        BuildError: no such dataset or revision, no access, or the Hub does not answer.
    """
    found = _ADDRESS.fullmatch(address)
    if not found:
        raise UsageError(
            f"{address.partition('?')[0]}: hf://datasets/<owner>/<name>, perhaps with @<revision>, is expected"
        )
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in _YES:
        raise UsageError(f"{address}: HF_HUB_OFFLINE is set; unset it, or name a local folder")
    repository, revision = found["repository"], found["revision"] or "main"
    commit = _commit(repository, revision.replace("%2F", "/"), retries)
    return WebFolder(
        f"{_endpoint()}/datasets/{repository}/resolve/{commit}{found['folder']}",
        token=_token(),
        where=f"hf://datasets/{repository}@{commit[:8]}{found['folder']}",
        refused=_HELP,
    )


def _commit(repository: str, revision: str, retries: Retries) -> str:
    """The full sha of a revision: a corpus that is published anew while it is read must not change under a reader."""
    where = f"hf://datasets/{repository}"
    api = WebFolder(
        f"{_endpoint()}/api/datasets/{repository}/revision",
        token=_token(),
        where=where,
        refused=_HELP,
    )
    try:
        about = parse_json(read_whole(api, revision.replace("/", "%2F"), retries=retries), where)
    except MissingError:
        raise BuildError(f"{where}@{revision}: no such dataset or revision; {_HELP}") from None
    sha = about.get("sha") if isinstance(about, dict) else None
    if not isinstance(sha, str) or not re.fullmatch(r"[0-9a-f]{40,64}", sha):
        raise BuildError(f"{where}: the Hub names no commit of {revision}")
    return sha


def _endpoint() -> str:
    from huggingface_hub import constants

    return (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")


def _token() -> str | None:
    from huggingface_hub import get_token

    return get_token()
