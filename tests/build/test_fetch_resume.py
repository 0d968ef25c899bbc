"""A fetch that is killed, is cut off or runs out of disk: the same command finishes it."""

from __future__ import annotations

import os
import re
import shutil
import signal
from pathlib import Path

import pytest
from checkpoints.fetch import PLAN
from checkpoints.manifest import read_manifest
from fetch_checkpoint import REPOS

from tests.support.hub_fetcher import COMMIT, FIRST, FULL, OLDER, SECOND, Fetcher, stalled
from tests.support.hub_server import Fault, LocalHub
from tests.support.small_engines import write_checkpoint

pytest_plugins = ("tests.support.hub_fixtures",)


def test_killed_fetch_goes_on_with_the_missing_file(fetch: Fetcher, large_hub: LocalHub) -> None:
    process = stalled(fetch, large_hub, SECOND)
    process.kill()
    process.communicate()
    assert not fetch.output.exists()
    large_hub.faults.clear()
    large_hub.forget()
    # The fetch goes on with the commit that it began with, whatever main is now.
    large_hub.repositories[REPOS[0]].main = OLDER
    out = fetch()
    assert f"checking {FIRST}, fetched before: " in out
    assert large_hub.sent.keys() == {SECOND}
    manifest = read_manifest(fetch.output)
    assert manifest is not None
    assert manifest.commit == COMMIT
    assert sorted(path.name for path in fetch.output.parent.iterdir()) == ["checkpoint"]


def test_interrupted_fetch_says_that_it_can_go_on(fetch: Fetcher, large_hub: LocalHub) -> None:
    process = stalled(fetch, large_hub, SECOND)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=500)
    assert process.returncode == 130
    assert err == (
        f"interrupted; what has arrived is kept in {fetch.download}, the same command continues "
        "there\n"
    )
    large_hub.faults.clear()
    fetch()


def test_second_fetch_into_the_same_folder_is_refused(fetch: Fetcher, large_hub: LocalHub) -> None:
    process = stalled(fetch, large_hub, SECOND)
    assert f"another run is writing {fetch.download}; wait for it" in fetch.refused()
    process.kill()
    process.communicate()


def test_broken_connection_is_resumed(fetch: Fetcher, large_hub: LocalHub) -> None:
    large_hub.faults[SECOND] = Fault(send_only=12_000_000)
    fetch()
    first, *others = large_hub.downloads(SECOND)
    assert first == 0
    assert others
    assert all(begin >= 10 * 2**20 for begin in others)


def test_file_of_another_commit_is_fetched_again(fetch: Fetcher, large_hub: LocalHub) -> None:
    """Killed at one commit, then asked for another that has other files of the same names."""
    process = stalled(fetch, large_hub, SECOND)
    process.kill()
    process.communicate()
    other = large_hub.repositories[REPOS[0]].commits[OLDER] = fetch.output.parent / "other"
    write_checkpoint(other, seed=2, shard_bytes=21_000_000, vocab_size=160_000)
    large_hub.faults.clear()
    out = fetch("--revision", OLDER)
    assert re.search(rf"{FIRST} has the SHA-256 \w+, the hub states \w+; fetching it again", out)
    for name in (FIRST, SECOND):
        assert (fetch.output / name).read_bytes() == (other / name).read_bytes()


DAMAGED_PLANS = ["", "one", "three more words", f"nvidia/other {OLDER}", f"{REPOS[0]} {OLDER[:9]}"]


@pytest.mark.parametrize("plan", DAMAGED_PLANS)
def test_damaged_plan_is_ignored(fetch: Fetcher, hub: LocalHub, plan: str) -> None:
    """After a power cut, or a fetch of another repository."""
    fetch.download.mkdir()
    (fetch.download / PLAN).write_text(plan)
    (fetch.download / "LICENSE").write_text("the licence of something else")
    out = fetch()
    assert re.search(r"LICENSE has 29 bytes, the hub states 19; fetching it again", out)
    assert (fetch.output / "LICENSE").read_text() == "the text of LICENSE"


def test_corrupted_bytes_are_refused_and_fetched_again(
    fetch: Fetcher, hub: LocalHub, repository_files: Path
) -> None:
    name = "model-00003-of-00004.safetensors"
    content = bytearray((repository_files / name).read_bytes())
    content[-1] ^= 1
    hub.faults[name] = Fault(content=bytes(content))
    error = fetch.refused()
    assert re.search(
        rf"{name} has the SHA-256 \w+, the hub states \w+; the damaged file was", error
    )
    assert not fetch.output.exists()
    hub.faults.clear()
    hub.forget()
    fetch()
    assert [name for name in os.listdir(repository_files) if hub.downloads(name)] == [
        name,
        "model-00004-of-00004.safetensors",
    ]


def test_files_fetched_before_need_no_space(fetch: Fetcher, large_hub: LocalHub) -> None:
    process = stalled(fetch, large_hub, SECOND)
    process.kill()
    process.communicate()
    large_hub.faults.clear()
    assert "still needs 0.09 GB" in fetch.refused(prelude=FULL.format(64 * 2**20 + 20_000_000))
    fetch(prelude=FULL.format(64 * 2**20 + 21_000_000))


def test_full_disk_keeps_what_has_arrived(fetch: Fetcher, large_hub: LocalHub) -> None:
    prelude = f"""
import huggingface_hub
def fetch_file(repo, name, *, fetch=huggingface_hub.hf_hub_download, **options):
    if name == {SECOND!r}:
        raise OSError(28, 'No space left on device')
    return fetch(repo, name, **options)
huggingface_hub.hf_hub_download = fetch_file
"""
    error = fetch.refused(prelude=prelude)
    assert "the disk is full" in error
    assert "run the same command again" in error
    large_hub.forget()
    fetch()
    assert large_hub.downloads(FIRST) == []


def test_death_between_the_two_renames_is_repaired(fetch: Fetcher, hub: LocalHub) -> None:
    """Between moving OUTPUT away and renaming the new folder to OUTPUT."""
    fetch()
    old = fetch.output.with_name("checkpoint.partial-abcd1234")
    shutil.copytree(fetch.output, old)
    fetch.output.rename(fetch.download)
    hub.forget()
    assert f"is ready: {REPOS[0]} at {COMMIT}" in fetch()
    assert hub.requests == []
    assert [path.name for path in fetch.output.parent.iterdir()] == ["checkpoint"]
    old.mkdir()  # killed before it was removed
    assert "is up to date" in fetch()
    assert not old.exists()


DIE_AT_A_RENAME = """
import os, signal
renames = []
def watch(event, arguments):
    if event == "os.rename" and str(arguments[0]).startswith({folder!r}):
        renames.append(arguments)
        if len(renames) > {most}:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(watch)
"""


@pytest.mark.parametrize("most", [2, 3])
def test_fetch_that_is_killed_again_and_again_ends(
    fetch: Fetcher, hub: LocalHub, repository_files: Path, most: int
) -> None:
    """Each run gets one rename further, or two: a file, the manifest, the old output moved away,
    the new one in its place."""
    shutil.copytree(repository_files, older := fetch.output.parent / "older")
    (older / "LICENSE").write_text("an older licence")
    hub.repositories[REPOS[0]].commits[OLDER] = older
    fetch("--revision", OLDER)
    prelude = DIE_AT_A_RENAME.format(folder=str(fetch.output), most=most)
    for _ in range(20):
        before = read_manifest(fetch.output) if fetch.output.exists() else None
        assert before is None or before.commit == OLDER
        process = fetch.start("--revision", COMMIT, prelude=prelude)
        process.communicate(timeout=500)
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL
    assert process.returncode == 0
    manifest = read_manifest(fetch.output)
    assert manifest is not None
    assert manifest.commit == COMMIT
    assert "14 of 14 files" in fetch("--check", str(fetch.output))
    assert sorted(path.name for path in fetch.output.parent.iterdir()) == ["checkpoint", "older"]
