"""The folder OUTPUT.download, where a fetch works until the folder becomes OUTPUT by a rename.

It is locked while a run works in it, and remembers the commit that the first run took. The OUTPUT
that it replaces lies in it as `.replaced` until it is removed: nothing else beside OUTPUT changes.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from host.console import BuildError

from checkpoints.manifest import MANIFEST, read_manifest

PLAN = ".fetch.json"
REPLACED = ".replaced"


def download_folder(output: Path) -> Path:
    """Where the files are until all of them are there."""
    output = output.resolve()
    return output.with_name(f"{output.name}.download")


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make the folder if need be; the lock ends with this process, however it dies."""
    descriptor = _lock(folder)
    try:
        _check_own(folder)
        yield
    finally:
        with contextlib.suppress(OSError):
            folder.rmdir()  # if nothing has arrived
        os.close(descriptor)


def _lock(folder: Path) -> int:
    """The lock's descriptor; raises `BuildError` while another run has it."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            continue  # the other run ended meanwhile, and removed or renamed the folder
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            raise BuildError(
                f"another run is fetching into {folder}; wait for it, or give another --output"
            ) from None
        if folder.exists() and os.path.samestat(os.fstat(descriptor), folder.stat()):
            return descriptor
        os.close(descriptor)


def _check_own(folder: Path) -> None:
    """What a fetch did not write is never removed, and never becomes part of a checkpoint."""
    names = {path.name for path in folder.iterdir()}
    if names and not names & {PLAN, f"{PLAN}.partial", MANIFEST}:
        raise BuildError(
            f"{folder} is not empty and no fetch wrote it; move it away or give another --output"
        )


def write_plan(folder: Path, repo: str, commit: str) -> None:
    """Remember what is fetched; from here on `folder` may be incomplete."""
    aside = folder / f"{PLAN}.partial"
    aside.write_text(json.dumps({"repo": repo, "commit": commit}), encoding="utf-8")
    aside.replace(folder / PLAN)
    (folder / MANIFEST).unlink(missing_ok=True)


def read_plan(folder: Path) -> tuple[str, str]:
    """The repository and the commit that an earlier run began with, or twice ""."""
    try:
        plan = json.loads((folder / PLAN).read_text(encoding="utf-8"))
        return str(plan["repo"]), str(plan["commit"])
    except (OSError, ValueError, KeyError, TypeError):
        return "", ""


def is_complete(folder: Path) -> bool:
    """Whether all that is left to do is `publish`: a run died between its last two steps."""
    return read_manifest(folder) is not None and not (folder / PLAN).exists()


def remove_all_but(folder: Path, names: set[str]) -> None:
    """Remove what does not belong to the checkpoint."""
    for path in folder.iterdir():
        inside = {name.partition("/")[2] for name in names if name.startswith(f"{path.name}/")}
        if inside and path.is_dir():
            remove_all_but(path, inside)
        elif path.name not in names | {PLAN}:
            _remove(path)


def complete(folder: Path) -> None:
    """All of it is there and checked, the manifest too: forget the plan."""
    (folder / PLAN).unlink()
    sync(folder)


def publish(folder: Path, output: Path) -> None:
    """Rename `folder` to `output`. Killed in between, the next run finds `folder` complete."""
    if output.exists():
        _remove(folder / REPLACED)
        output.rename(folder / REPLACED)
    folder.rename(output)
    sync(output.parent)
    remove_replaced(output)


def remove_replaced(output: Path) -> None:
    """Remove what a killed run was about to."""
    _remove(output / REPLACED)


def sync(path: Path) -> None:
    """Return when the disk has it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
