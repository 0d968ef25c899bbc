"""From the hub into a folder: resumed after any death, checked against the hub's hashes, pinned.

The files gather in OUTPUT.download, checked ones under their names, others as `hub_transfer` calls
them. The configuration is checked before the weights are asked for, the weights' values before the
folder becomes OUTPUT.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from host.console import BuildError, Phase, say
from host.output_folder import SPARE_BYTES

from checkpoints.check import check_content, check_small_files
from checkpoints.fetch_folder import (
    complete,
    download_folder,
    is_complete,
    locked,
    publish,
    read_plan,
    remove_all_but,
    remove_replaced,
    sync,
    write_plan,
)
from checkpoints.hub import HubFiles, RepositoryMissing, list_files
from checkpoints.hub_transfer import bytes_there, fetch_file, fetch_shard
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

Files = dict[str, StatedFile]


def fetch(repos: tuple[str, ...], commit: str, output: Path) -> None:
    """Fetch a repository into `output`; raises `BuildError`.

    `repos` are the names that one repository may have, tried in order. Without a `commit` it is
    the one that an earlier run for `output` took, or else what `main` is now.
    """
    output = output.resolve()
    manifest = _manifest_of(output)
    if manifest is not None and _answers(manifest, repos, commit):
        if is_unchanged(output, manifest):
            remove_replaced(output)
            say(f"{output} is up to date: {manifest.repo} at {manifest.commit}")
            return
        say(f"{output} is no longer what was fetched; fetching what changed")
        repos, commit = (manifest.repo,), manifest.commit
    folder = download_folder(output)
    with locked(folder):
        if not _was_fetched(folder, repos, commit):
            _fetch_into(folder, _pinned(folder, repos, commit), output)
        publish(folder, output)
    manifest = read_manifest(output)
    assert manifest is not None  # it was written before the folder became `output`
    say(f"{output} is ready: {manifest.repo} at {manifest.commit}")


def _fetch_into(folder: Path, source: HubFiles, output: Path) -> None:
    kept = _kept(output, folder, source)
    files = _fetch_small_files(folder, source, kept)
    files |= _fetch_weights(folder, source, kept)
    remove_all_but(folder, set(files))
    with _blaming(source):
        summary = check_content(folder)
    say(f"{summary}; {len(files)} files are what the hub states")
    write_manifest(folder, Manifest(source.repo, source.commit, "the hub", files))
    complete(folder)


def _manifest_of(output: Path) -> Manifest | None:
    if not output.exists():
        return None
    if not output.is_dir():
        raise BuildError(f"{output} is no folder; give another --output")
    manifest = read_manifest(output)
    if manifest is None and any(output.iterdir()):
        raise BuildError(f"{output} is not empty and holds no {MANIFEST}; give another --output")
    return manifest


def _answers(manifest: Manifest, repos: tuple[str, ...], commit: str) -> bool:
    if commit:
        return manifest.commit == commit
    return manifest.repo in repos and bool(manifest.commit)


def _was_fetched(folder: Path, repos: tuple[str, ...], commit: str) -> bool:
    """Whether a run died after it had completed the folder, and before it renamed it."""
    manifest = read_manifest(folder) if is_complete(folder) else None
    return (
        manifest is not None
        and _answers(manifest, repos, commit)
        and is_unchanged(folder, manifest)
    )


def _pinned(folder: Path, repos: tuple[str, ...], commit: str) -> HubFiles:
    """The repository at one commit, which is written down before anything is fetched."""
    if not commit:
        planned_repo, planned_commit = read_plan(folder)
        if planned_repo in repos:
            repos, commit = (planned_repo,), planned_commit
    source = _first_found(repos, commit or "main")
    if not COMMIT.fullmatch(source.commit) or commit not in ("", source.commit):
        raise BuildError(
            f"the hub answers with commit {source.commit!r} of {source.repo}, allowed is "
            f"{commit or 'one of 40 hex digits'}; look at HF_ENDPOINT"
        )
    if not commit:
        say(f"main of {source.repo} is {source.commit}; --revision {source.commit} pins it")
    write_plan(folder, source.repo, source.commit)
    return source


def _first_found(repos: tuple[str, ...], revision: str) -> HubFiles:
    for repo, other in itertools.pairwise(repos):
        try:
            return list_files(repo, revision)
        except RepositoryMissing:
            say(f"the hub shows no {repo}; trying {other}")
    return list_files(repos[-1], revision)


def _kept(output: Path, folder: Path, source: HubFiles) -> Files:
    """What earlier runs left in `folder`, and an earlier fetch in `output`, that this commit has
    unchanged: checked, and linked into `folder`. Anything else goes from there."""
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


def _fetch_small_files(folder: Path, source: HubFiles, kept: Files) -> Files:
    names = [name for name in source.files if is_small_file(name)]
    check_needed(f"{source.repo} at {source.commit}", names)
    _stated_bytes(source, names)
    missing = [name for name in names if name not in kept]
    _check_space(folder, source, missing)
    files = {name: kept[name] for name in names if name in kept}
    if missing:
        total = _stated_bytes(source, missing)
        with Phase(f"fetching {len(missing)} small files, {total:,} bytes", total) as phase:
            files |= {name: fetch_file(folder, source, name, phase.advance) for name in missing}
    with _blaming(source):  # before gigabytes are fetched
        check_small_files(folder)
    return files


def _fetch_weights(folder: Path, source: HubFiles, kept: Files) -> Files:
    names = shard_names(folder)
    _stated_bytes(source, names)
    _check_space(folder, source, [name for name in names if name not in kept])
    files = {}
    for number, name in enumerate(names, 1):
        size = source.files[name].size or 0
        label = f"fetching {name} ({number} of {len(names)}), {size:,} bytes"
        files[name] = kept.get(name) or fetch_shard(folder, source, name, label)
    return files


def _stated_bytes(source: HubFiles, names: Iterable[str]) -> int:
    """Their size; raises `BuildError` for a file that cannot be checked when it has arrived."""
    total = 0
    for name in names:
        stated = source.files.get(name)
        if stated is None or stated.size is None or not stated.hash:
            raise BuildError(
                f"the hub states no size and hash of {name} in {source.repo} at {source.commit}; "
                "give another --revision, or look at HF_ENDPOINT"
            )
        total += stated.size
    return total


def _check_space(folder: Path, source: HubFiles, names: list[str]) -> None:
    missing = _stated_bytes(source, names)
    missing -= sum(bytes_there(folder, source, name) for name in names)
    free = shutil.disk_usage(folder).free
    if free < missing + SPARE_BYTES:
        raise BuildError(
            f"the disk is full: {folder} still needs {(missing + SPARE_BYTES) / 1e9:.2f} GB and "
            f"has {free / 1e9:.2f} GB free; free space there or give another --output"
        )


@contextlib.contextmanager
def _blaming(source: HubFiles) -> Iterator[None]:
    try:
        yield
    except BuildError as error:
        raise BuildError(
            f"{source.repo} at {source.commit} arrived as the hub states it, but is refused: "
            f"{error}; or give another --repo or --revision"
        ) from error
