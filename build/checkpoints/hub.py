"""The Hugging Face hub: a repository's files at one commit, and the bytes of one file, resumed.

The only module that imports huggingface_hub, and the one place where its errors become sentences.
It knows nothing of checkpoints. A token is only ever handed to huggingface_hub; no message is made
of a header or of a signed address.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from host.console import BuildError, say

from checkpoints.manifest import Advance, StatedFile

# Its bars are for terminals, its warnings hold addresses; read when it is imported.
SETTINGS = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_VERBOSITY": "error",
}
LOCAL_FOLDER = "give --from a folder that has the checkpoint"
OTHER_VERSION = "install the one that this project was tried with: pip install '.[fetch]'"
NO_HUB = "look at HF_ENDPOINT, the proxy, and whether the network wants a login"
AGAIN = "run the same command again, it goes on where it stopped"


class HubTrouble(BuildError):
    """The hub or the way to it fails; the same request may succeed later."""


class RepositoryMissing(BuildError):
    """The hub has no such repository, or hides it."""


@dataclass(frozen=True)
class HubFiles:
    """A repository at one commit."""

    repo: str
    commit: str
    files: dict[str, StatedFile]


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


def dataset_file(repo: str, commit: str, name: str) -> Path:
    """A dataset's file in huggingface_hub's own cache, fetched if it lacks; raises `BuildError`."""
    hub = _huggingface_hub()
    from huggingface_hub import constants

    try:
        return Path(hub.hf_hub_download(repo, name, repo_type="dataset", revision=commit))
    except Exception as error:
        raise BuildError(
            f"{constants.ENDPOINT} does not give {name} of the dataset {repo} "
            f"({type(error).__name__}); give local text with --calib-data FILE.jsonl, or {NO_HUB}"
        ) from error


def download(source: HubFiles, name: str, partial: Path, advance: Advance) -> None:
    """Append to `partial` what it lacks of the file; raises `BuildError`.

    Tries again for as long as each attempt brings some bytes. The content is not checked.
    """
    advance(_size(partial))
    while True:
        before = _size(partial)
        try:
            return _attempt(source, name, partial, advance)
        except HubTrouble:
            if _size(partial) <= before:
                raise
            say(f"{name}: the connection broke; going on at byte {_size(partial):,}")


def _attempt(source: HubFiles, name: str, partial: Path, advance: Advance) -> None:
    hub = _huggingface_hub()
    with _one_sentence(source.repo, source.commit):
        address = hub.hf_hub_url(source.repo, name, revision=source.commit)
        location = hub.get_hf_file_metadata(address).location
        headers = hub.utils.build_hf_headers()
    headers["Accept-Encoding"] = "identity"  # a range is of the bytes as they are stored
    if urlsplit(location).netloc != urlsplit(address).netloc:
        headers.pop("authorization", None)  # a storage host's address is signed; it gets no token
    size = source.files[name].size
    with _Counted(partial, advance) as file, _transfer(name):
        hub.file_download.http_get(
            location, file, resume_size=file.tell(), headers=headers, expected_size=size
        )


class _Counted(io.BufferedWriter):
    """A file that is appended to, and says how much."""

    def __init__(self, path: Path, advance: Advance) -> None:
        super().__init__(io.FileIO(path, "ab"))
        self._advance = advance

    def write(self, data: Any) -> int:
        count = super().write(data)
        self._advance(count)
        return count


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _huggingface_hub() -> Any:
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        import huggingface_hub

        # Since version 1.18 its hf_hub_download starts a file anew after every kill; `http_get`,
        # which that is made of, takes up where a file ends.
        import huggingface_hub.errors
        import huggingface_hub.file_download
    except ImportError as error:
        raise BuildError(
            f"huggingface_hub cannot be imported ({error}); {OTHER_VERSION}, or {LOCAL_FOLDER}"
        ) from error
    return huggingface_hub


@contextlib.contextmanager
def _one_sentence(repo: str, revision: str) -> Iterator[None]:
    """Map what the hub answers, the most specific first."""
    from huggingface_hub import constants, errors

    page = f"{constants.ENDPOINT}/{repo}"
    try:
        yield
    except errors.GatedRepoError as error:
        raise BuildError(_gated(page, error.response.status_code)) from error
    except errors.RepositoryNotFoundError as error:
        raise RepositoryMissing(
            f"{constants.ENDPOINT} has no repository {repo}, or shows it only to accounts with "
            "access: look at the spelling of --repo, log in with 'hf auth login', or "
            f"{LOCAL_FOLDER}"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise BuildError(
            f"{repo} has no revision {revision} any more, or never had; give --revision a commit "
            f"id from {page}/commits/main"
        ) from error
    except errors.EntryNotFoundError as error:
        raise BuildError(
            f"{page} lists a file that it does not have at {revision}; give another --revision"
        ) from error
    except errors.OfflineModeIsEnabled as error:
        raise BuildError(
            f"HF_HUB_OFFLINE is set, so the hub is not asked; unset it, or {LOCAL_FOLDER}"
        ) from error
    except errors.HFValidationError as error:
        raise BuildError(f"--repo is {repo!r}, allowed is 'owner/name'") from error
    except errors.HfHubHTTPError as error:
        raise _refusal(constants.ENDPOINT, page, error.response.status_code) from error
    except Exception as error:
        raise _other(constants.ENDPOINT, page, error) from error


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


def _refusal(endpoint: str, page: str, status: int) -> BuildError:
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
        return HubTrouble(f"{endpoint} wants fewer requests (429); wait some minutes and {AGAIN}")
    if status == 408 or status >= 500:
        return HubTrouble(f"{endpoint} answers {status}; wait some minutes and {AGAIN}")
    return BuildError(f"{page} is answered with {status}; {NO_HUB}")


def _other(endpoint: str, page: str, error: Exception) -> BuildError:
    """Errors of the HTTP library below, whichever it is: each release line brings another one."""
    response = getattr(error, "response", None)  # which 0.36 lets through when its retries end
    if response is not None:
        return _refusal(endpoint, page, response.status_code)
    library = type(error).__module__.partition(".")[0]
    if isinstance(error, json.JSONDecodeError):
        return BuildError(f"{endpoint} does not answer as a hub does; {NO_HUB}")
    if isinstance(error, OSError) or library.startswith(("httpx", "httpcore", "requests")):
        return HubTrouble(
            f"{endpoint} cannot be reached ({type(error).__name__}); look at the network, the "
            f"proxy and HF_ENDPOINT and {AGAIN}, or {LOCAL_FOLDER}"
        )
    return BuildError(f"huggingface_hub failed with {type(error).__name__}; {OTHER_VERSION}")


@contextlib.contextmanager
def _transfer(name: str) -> Iterator[None]:
    """Whatever ends a transfer but our own disk is worth another attempt at a fresh address: a
    signed one expires after an hour, and is then refused as if access were."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS):
            raise
        raise _broken(name, error) from error
    except (TypeError, AttributeError) as error:
        raise BuildError(f"http_get is another one ({error}); {OTHER_VERSION}") from error
    except Exception as error:
        raise _broken(name, error) from error


def _broken(name: str, error: Exception) -> HubTrouble:
    return HubTrouble(f"{name} did not arrive whole ({type(error).__name__}); {AGAIN}")
