"""The Hugging Face hub: the files of a repository at one commit, and their download.

The only module that imports huggingface_hub; it turns that library's errors into sentences and
knows nothing of checkpoints. A token is only handed to huggingface_hub, and no message contains a
header or a signed address.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from host.console import BuildError, say

from checkpoints.manifest import StatedFile

# huggingface_hub's own bars are for terminals, its warnings contain addresses. Set before import.
SETTINGS = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_VERBOSITY": "error",
}
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM)
LOCAL_FOLDER = "give --from a folder that has the checkpoint"
OTHER_VERSION = "install the one that this project was tried with: pip install '.[fetch]'"
NO_HUB = "look at HF_ENDPOINT, the proxy, and whether the network wants a login"
AGAIN = "run the same command again, it goes on where it stopped"


class RepositoryMissing(BuildError):
    """The hub has no such repository, or hides it."""


class TransferBroken(BuildError):
    """A file did not arrive whole; another attempt may bring the rest."""


@dataclass(frozen=True)
class HubFiles:
    """A repository at one commit."""

    repo: str
    commit: str
    files: dict[str, StatedFile]

    def total(self, names: Iterable[str]) -> int:
        """The files' bytes; raises `BuildError` for a file that could not be checked afterwards."""
        total = 0
        for name in names:
            stated = self.files.get(name)
            if stated is None or stated.size is None or not stated.hash:
                raise BuildError(
                    f"the hub states no size and hash of {name} in {self.repo} at {self.commit}; "
                    "give another --revision, or look at HF_ENDPOINT"
                )
            total += stated.size
        return total


def list_files(repo: str, revision: str) -> HubFiles:
    """The files of `repo` with their sizes and hashes; raises `BuildError`.

    `revision` is a commit id or a branch.
    """
    hub = _huggingface_hub()
    with _one_sentence(repo, revision):
        info = hub.HfApi().model_info(repo, revision=revision, files_metadata=True)
    if info.id and info.id != repo:
        say(f"{repo} is now called {info.id}")
    return HubFiles(repo, info.sha or "", dict(map(_stated, info.siblings or [])))


def _stated(sibling: Any) -> tuple[str, StatedFile]:
    if sibling.lfs:
        return sibling.rfilename, StatedFile(sibling.lfs.size, sha256=sibling.lfs.sha256)
    return sibling.rfilename, StatedFile(sibling.size, blob_sha1=sibling.blob_id or "")


def download(source: HubFiles, name: str, folder: Path) -> None:
    """Fetch a file into `folder`, through its `.cache`; raises `BuildError`.

    The content is not checked. Not `snapshot_download`: its threads hold Ctrl-C back until their
    downloads end, and it returns without an error if the hub is gone and the folder is not empty.
    """
    hub = _huggingface_hub()
    cache = folder / ".cache"  # a damaged file in the user's own cache would be used
    with _one_sentence(source.repo, source.commit, name):
        hub.hf_hub_download(
            source.repo, name, revision=source.commit, local_dir=folder, cache_dir=cache
        )


def dataset_file(repo: str, commit: str, name: str) -> Path:
    """A dataset's file in huggingface_hub's own cache, fetched if need be; raises `BuildError`."""
    hub = _huggingface_hub()
    from huggingface_hub import constants

    try:
        return Path(hub.hf_hub_download(repo, name, repo_type="dataset", revision=commit))
    except Exception as error:
        raise BuildError(
            f"{constants.ENDPOINT} does not give {name} of the dataset {repo} "
            f"({type(error).__name__}); give local text with --calib-data FILE.jsonl, or {NO_HUB}"
        ) from error


def _huggingface_hub() -> Any:
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError as error:
        raise BuildError(
            f"huggingface_hub cannot be imported ({error}); {OTHER_VERSION}, or {LOCAL_FOLDER}"
        ) from error
    return huggingface_hub


@contextlib.contextmanager
def _one_sentence(repo: str, revision: str, name: str = "") -> Iterator[None]:
    """Turn the library's errors into a `BuildError`, except those of this machine's disk."""
    from huggingface_hub import constants, errors

    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) and error.errno in DISK_ERRORS:
            raise
        cause: BaseException = error
        if isinstance(error, errors.LocalEntryNotFoundError):  # any trouble before the first byte
            cause = error.__cause__ or error
        page = f"{constants.ENDPOINT}/{repo}"
        refusal = _refusal_of(cause, page, repo, revision)
        raise refusal or _failure(cause, constants.ENDPOINT, page, name) from error


def _refusal_of(error: BaseException, page: str, repo: str, revision: str) -> BuildError | None:
    """The hub's own refusals, the most specific first."""
    from huggingface_hub import constants, errors

    if isinstance(error, errors.GatedRepoError):
        return BuildError(_gated(page, error.response.status_code))
    if isinstance(error, errors.RepositoryNotFoundError):
        return RepositoryMissing(
            f"{constants.ENDPOINT} has no repository {repo}, or shows it only to accounts with "
            "access: look at the spelling of --repo, log in with 'hf auth login', or "
            f"{LOCAL_FOLDER}"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return BuildError(
            f"{repo} has no revision {revision} any more, or never had; give --revision a commit "
            f"id from {page}/commits/main"
        )
    if isinstance(error, errors.EntryNotFoundError):
        return BuildError(
            f"{page} lists a file that it does not have at {revision}; give another --revision"
        )
    if isinstance(error, errors.OfflineModeIsEnabled):
        return BuildError(
            f"HF_HUB_OFFLINE is set, so the hub cannot be asked; unset it, or {LOCAL_FOLDER}"
        )
    if isinstance(error, errors.HFValidationError):
        return BuildError(f"--repo must be 'owner/name', not {repo!r}")
    return None


def _gated(page: str, status: int) -> str:
    if status == 401:
        return (
            f"{page} is gated: accept its licence on that page, then log in with 'hf auth login' "
            f"or set HF_TOKEN; or {LOCAL_FOLDER}"
        )
    return (
        f"{page} is gated and the account of your token has no access: accept the licence on that "
        f"page with this account, and wait where access is granted by hand; or {LOCAL_FOLDER}"
    )


def _failure(error: BaseException, endpoint: str, page: str, name: str) -> BuildError:
    """Errors of the HTTP library, which differs between versions, and unexpected answers."""
    response = getattr(error, "response", None)
    library = type(error).__module__.partition(".")[0]
    if response is not None and (not name or str(response.url).startswith(f"{endpoint}/")):
        return _refused_status(endpoint, page, response.status_code)
    if isinstance(error, json.JSONDecodeError):
        return BuildError(f"{endpoint} does not answer as a hub does; {NO_HUB}")
    if response is None and not (
        isinstance(error, OSError) or library.startswith(("httpx", "httpcore", "requests"))
    ):
        return BuildError(f"huggingface_hub failed with {type(error).__name__}; {OTHER_VERSION}")
    if name:  # the storage host, whose signed address expires after an hour, or the way to it
        return TransferBroken(f"{name} did not arrive whole ({type(error).__name__}); {AGAIN}")
    return BuildError(
        f"{endpoint} cannot be reached ({type(error).__name__}); look at the network, the proxy "
        f"and HF_ENDPOINT and {AGAIN}, or {LOCAL_FOLDER}"
    )


def _refused_status(endpoint: str, page: str, status: int) -> BuildError:
    if status == 401:
        return BuildError(
            f"{endpoint} refuses the token (401); log in anew with 'hf auth login', or correct or "
            "unset HF_TOKEN"
        )
    if status == 403:
        return BuildError(
            f"{page} is forbidden to the account of your token (403); give that token read access "
            f"to it, or {LOCAL_FOLDER}"
        )
    if status == 429:
        return BuildError(
            f"{endpoint} refuses so many requests (429); wait some minutes and {AGAIN}"
        )
    if status == 408 or status >= 500:
        return BuildError(f"{endpoint} answers {status}; wait some minutes and {AGAIN}")
    return BuildError(f"{page} answers {status}; {NO_HUB}")
