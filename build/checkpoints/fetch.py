"""Fetches a checkpoint from the hub: pinned at a commit, checked, resumed file by file.

The files gather in OUTPUT.download. A later run keeps those that have the hub's size and hash, and
goes on with the others. The configuration is checked before the weights are fetched, and their
values before the folder becomes OUTPUT.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from host.console import PROGRESS_INTERVAL_S, BuildError, Phase, say
from host.output_folder import SPARE_BYTES, remove_stale, resumable_output, sync

from checkpoints.check import check_content, check_small_files
from checkpoints.hub import HubFiles, RepositoryMissing, TransferBroken, download, list_files
from checkpoints.manifest import (
    MANIFEST,
    Manifest,
    StatedFile,
    check_file,
    check_needed,
    is_small_file,
    is_unchanged,
    read_manifest,
    shard_names,
    write_manifest,
)

COMMIT = re.compile(r"[0-9a-f]{40}")
PLAN = ".fetch"  # in the folder, while it is incomplete: the repository and the commit
Files = dict[str, StatedFile]


def fetch(repos: tuple[str, ...], commit: str, output: Path) -> None:
    """Fetch a repository into `output`; raises `BuildError`.

    `repos` are the names that one repository may have, tried in order. `commit` is a commit id, or
    "" for the one that an earlier run for `output` began with, or else what `main` is now.
    """
    output = output.resolve()
    current = read_manifest(output)
    if current is not None and _matches(current, repos, commit):
        if is_unchanged(output, current):
            remove_stale(output)
            say(f"{output} is up to date: {current.repo} at {current.commit}")
            return
        say(f"{output} has changed since it was fetched; fetching what changed")
        repos, commit = (current.repo,), current.commit
    with resumable_output(output, MANIFEST, (PLAN, MANIFEST)) as folder:
        manifest = read_manifest(folder)  # of a run that was killed just before the end
        if (
            manifest is None
            or not _matches(manifest, repos, commit)
            or not is_unchanged(folder, manifest)
        ):
            manifest = _fetch_into(folder, _pinned(folder, repos, commit), output)
        (folder / PLAN).unlink(missing_ok=True)
    say(f"{output} is ready: {manifest.repo} at {manifest.commit}")


def _matches(manifest: Manifest, repos: tuple[str, ...], commit: str) -> bool:
    if commit:
        return manifest.commit == commit
    return manifest.repo in repos and bool(manifest.commit)


def _fetch_into(folder: Path, source: HubFiles, output: Path) -> Manifest:
    kept = _kept(source, folder, output)
    names = [name for name in source.files if is_small_file(name)]
    check_needed(f"{source.repo} at {source.commit}", names)
    _check_space(source, folder, [name for name in names if name not in kept])
    files = _fetch_files(source, folder, names, kept, f"{len(names)} small files")
    with _naming(source):  # before gigabytes are fetched
        check_small_files(folder)
        shards = shard_names(folder)
    _check_space(source, folder, [name for name in shards if name not in kept])
    for number, name in enumerate(shards, 1):
        files |= _fetch_files(source, folder, [name], kept, f"{name} ({number} of {len(shards)})")
    _remove_all_but(folder, {*files, PLAN})
    with _naming(source):
        summary = check_content(folder)
    say(f"{summary}; {len(files)} files are what the hub states")
    manifest = Manifest(source.repo, source.commit, "the hub", files)
    write_manifest(folder, manifest)
    return manifest


def _pinned(folder: Path, repos: tuple[str, ...], commit: str) -> HubFiles:
    """The repository at one commit, which is saved before anything is fetched."""
    if not commit:
        repo, planned = _read_plan(folder)
        if repo in repos and COMMIT.fullmatch(planned):
            repos, commit = (repo,), planned
    source = _first_found(repos, commit or "main")
    if not COMMIT.fullmatch(source.commit) or commit not in ("", source.commit):
        raise BuildError(
            f"the commit that the hub gives for {source.repo} must be "
            f"{commit or '40 hex digits'}, not {source.commit!r}; look at HF_ENDPOINT"
        )
    if not commit:
        say(f"main of {source.repo} is {source.commit}; --revision {source.commit} pins it")
    (folder / PLAN).write_text(f"{source.repo} {source.commit}\n", encoding="utf-8")
    (folder / MANIFEST).unlink(missing_ok=True)
    return source


def _read_plan(folder: Path) -> tuple[str, str]:
    """The repository and commit that an earlier run began with, or ("", "")."""
    with contextlib.suppress(OSError, ValueError):
        repo, commit = (folder / PLAN).read_text(encoding="utf-8").split()
        return repo, commit
    return "", ""


def _first_found(repos: tuple[str, ...], revision: str) -> HubFiles:
    for repo, other in itertools.pairwise(repos):
        try:
            return list_files(repo, revision)
        except RepositoryMissing:
            say(f"the hub shows no {repo}; trying {other}")
    return list_files(repos[-1], revision)


def _kept(source: HubFiles, folder: Path, output: Path) -> Files:
    """Find the files of this commit that earlier runs left in `folder` or `output`, check them and
    link them into `folder`. Files with other content are removed from `folder`."""
    kept: Files = {}
    for name, stated in source.files.items():
        places = [path for path in (folder / name, output / name) if path.is_file()]
        if ("/" in name and not is_small_file(name)) or not stated.hash or not places:
            continue
        try:
            with Phase(f"checking {name}, fetched before", stated.size or 0) as phase:
                sha256 = check_file(places[0], stated, "the hub", phase.advance)
        except BuildError as error:
            say(f"{error}; fetching it again")
            (folder / name).unlink(missing_ok=True)
            continue
        if places[0] != folder / name:
            _link_or_copy(places[0], folder / name)
        kept[name] = StatedFile(stated.size, sha256)
    return kept


def _link_or_copy(source: Path, target: Path) -> None:
    target.parent.mkdir(exist_ok=True)
    try:
        os.link(source, target)
    except OSError:  # not every file system has hard links
        shutil.copy2(source, target)
        sync(target)


def _fetch_files(source: HubFiles, folder: Path, names: list[str], kept: Files, what: str) -> Files:
    """Fetch those of `names` that are not in `kept` and check them; raises `BuildError`."""
    files = {name: kept[name] for name in names if name in kept}
    missing = [name for name in names if name not in kept]
    total = source.total(missing)
    if not missing:
        return files
    with _watched(folder, f"fetching {what}, {total:,} bytes", total):
        for name in missing:
            _download(source, name, folder)
    with Phase(f"checking {what}", total) as phase:
        for name in missing:
            sha256 = _checked(folder / name, source.files[name], phase.advance)
            files[name] = StatedFile(source.files[name].size, sha256)
    return files


def _download(source: HubFiles, name: str, folder: Path) -> None:
    """Versions of huggingface_hub before 1.18 give up when a connection breaks, and go on where the
    file ends when they are called again; the later ones do so by themselves."""
    while True:
        before = _bytes_in(folder)
        try:
            return download(source, name, folder)
        except TransferBroken:
            if _bytes_in(folder) <= before:
                raise
            say(f"{name}: the connection broke; going on")


@contextlib.contextmanager
def _watched(folder: Path, label: str, total: int) -> Iterator[None]:
    """A phase whose progress is the growth of `folder`: huggingface_hub 0.34 to 1.0 do not report
    the bytes of a download to their caller."""
    ended = threading.Event()

    def watch(phase: Phase, size: int) -> None:
        while not ended.wait(PROGRESS_INTERVAL_S):
            before, size = size, _bytes_in(folder)
            phase.advance(size - before)

    with Phase(label, total) as phase:
        watcher = threading.Thread(target=watch, args=(phase, _bytes_in(folder)), daemon=True)
        watcher.start()
        try:
            yield
        finally:
            ended.set()
            watcher.join()


def _bytes_in(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # renamed meanwhile
            total += path.stat().st_blocks * 512  # st_size includes the holes of a sparse file
    return total


def _checked(path: Path, stated: StatedFile, advance: Callable[[int], None]) -> str:
    try:
        sha256 = check_file(path, stated, "the hub", advance)
    except BuildError as error:
        path.unlink()
        raise BuildError(
            f"{error}; the damaged file was removed, run the same command again"
        ) from error
    sync(path)
    return sha256


def _check_space(source: HubFiles, folder: Path, missing: list[str]) -> None:
    needed = source.total(missing) + SPARE_BYTES
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise BuildError(
            f"the disk is full: {folder} still needs {needed / 1e9:.2f} GB and has "
            f"{free / 1e9:.2f} GB free; free space there or give another --output"
        )


def _remove_all_but(folder: Path, names: set[str]) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):  # files before their folder
        if path.is_dir() and not path.is_symlink():
            with contextlib.suppress(OSError):
                path.rmdir()
        elif path.relative_to(folder).as_posix() not in names:
            path.unlink()


@contextlib.contextmanager
def _naming(source: HubFiles) -> Iterator[None]:
    try:
        yield
    except BuildError as error:
        raise BuildError(
            f"{source.repo} at {source.commit} was fetched whole, but is refused: "
            f"{error}; or give another --repo or --revision"
        ) from error
