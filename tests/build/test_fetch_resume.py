"""A fetch that dies, is cut off or runs out of disk: the same command finishes it, whole."""

from __future__ import annotations

import os
import re
import shutil
import signal
from pathlib import Path

import pytest
from checkpoints.fetch_folder import PLAN, REPLACED
from checkpoints.manifest import read_manifest
from fetch_checkpoint import REPOS

from tests.support.engine_fixtures import write_checkpoint
from tests.support.hub_fetcher import COMMIT, FULL, OLDER, SECOND, Fetcher, stalled
from tests.support.hub_server import Fault, LocalHub, git_sha1

pytest_plugins = ("tests.support.hub_fixtures",)


def test_killed_fetch_goes_on_with_the_missing_bytes(fetch: Fetcher, large_hub: LocalHub) -> None:
    process = stalled(fetch, large_hub, SECOND, 15_000_000)
    process.kill()
    process.communicate()
    assert not fetch.output.exists()
    (partial,) = fetch.partials(SECOND)
    kept = partial.stat().st_size
    size = (large_hub.repositories[REPOS[0]].commits[COMMIT] / SECOND).stat().st_size
    assert 0 < kept < size
    large_hub.faults.clear()
    large_hub.forget()
    # What main is now does not matter: the fetch began with another commit.
    large_hub.repositories[REPOS[0]].main = OLDER
    out = fetch()
    assert f"{SECOND}: going on at byte {kept:,}\n" in out
    assert large_hub.downloads(SECOND) == [kept]
    assert large_hub.sent == {SECOND: size - kept}
    manifest = read_manifest(fetch.output)
    assert manifest is not None
    assert manifest.commit == COMMIT


def test_interrupted_fetch_says_that_it_can_go_on(fetch: Fetcher, large_hub: LocalHub) -> None:
    process = stalled(fetch, large_hub, SECOND, 15_000_000)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=500)
    assert process.returncode == 130
    assert err == (
        f"interrupted; what has arrived is kept in {fetch.download}, the same command goes on "
        "from there\n"
    )
    large_hub.faults.clear()
    fetch()


def test_two_fetches_do_not_meet_in_one_folder(fetch: Fetcher, large_hub: LocalHub) -> None:
    process = stalled(fetch, large_hub, SECOND, 15_000_000)
    assert f"another run is fetching into {fetch.download}; wait for it" in fetch.refused()
    process.kill()
    process.communicate()


def test_broken_connection_is_taken_up(fetch: Fetcher, large_hub: LocalHub) -> None:
    large_hub.faults[SECOND] = Fault(send_only=12_000_000)
    fetch()
    first, *others = large_hub.downloads(SECOND)
    assert first == 0
    assert others
    assert all(begin >= 10 * 2**20 for begin in others)


def test_partial_of_another_file_is_not_taken(fetch: Fetcher, large_hub: LocalHub) -> None:
    """The same name at another commit: its bytes have another hash, and so another partial."""
    process = stalled(fetch, large_hub, SECOND, 15_000_000)
    process.kill()
    process.communicate()
    other = large_hub.repositories[REPOS[0]].commits[OLDER] = fetch.output.parent / "other"
    write_checkpoint(other, seed=2, shard_bytes=21_000_000, vocab_size=160_000)
    large_hub.faults.clear()
    large_hub.forget()
    fetch("--revision", OLDER)
    assert large_hub.downloads(SECOND) == [0]
    assert (fetch.output / SECOND).read_bytes() == (other / SECOND).read_bytes()


def test_overlong_partial_is_thrown_away(fetch: Fetcher, hub: LocalHub) -> None:
    partial = f"LICENSE.{git_sha1(b'the text of LICENSE')[:16]}.part"
    fetch.download.mkdir()
    (fetch.download / PLAN).write_text("not even JSON")
    (fetch.download / partial).write_text("more bytes than the licence has")
    assert "going on" not in fetch()
    assert (fetch.output / "LICENSE").read_text() == "the text of LICENSE"


def test_corrupted_bytes_are_refused_and_fetched_again(
    fetch: Fetcher, hub: LocalHub, repository_files: Path
) -> None:
    name = "model-00003-of-00004.safetensors"
    content = bytearray((repository_files / name).read_bytes())
    content[-1] ^= 1
    hub.faults[name] = Fault(content=bytes(content))
    error = fetch.refused()
    assert re.search(rf"{name}.*\.part has the SHA-256 \w+, the hub states \w+; the damaged", error)
    assert not fetch.output.exists()
    hub.faults.clear()
    hub.forget()
    fetch()
    assert [name for name in os.listdir(repository_files) if hub.downloads(name)] == [
        name,
        "model-00004-of-00004.safetensors",
    ]


def test_what_is_there_needs_no_space(fetch: Fetcher, large_hub: LocalHub) -> None:
    process = stalled(fetch, large_hub, SECOND, 15_000_000)
    process.kill()
    process.communicate()
    large_hub.faults.clear()
    fetch(prelude=FULL.format(64 * 2**20 + 11_000_000))


def test_disk_that_fills_up_keeps_what_has_arrived(fetch: Fetcher, large_hub: LocalHub) -> None:
    prelude = """
def write(self, data, write=checkpoints.hub._Counted.write):
    if self.tell() > 9e6:
        raise OSError(28, 'No space left on device')
    return write(self, data)
checkpoints.hub._Counted.write = write
"""
    error = fetch.refused(prelude=prelude)
    assert "the disk is full" in error
    assert "run the same command again" in error
    large_hub.forget()
    fetch()
    assert large_hub.downloads("model-00001-of-00002.safetensors") == [10 * 2**20]


def test_death_between_the_two_renames_is_mended(fetch: Fetcher, hub: LocalHub) -> None:
    """Of OUTPUT into the folder that replaces it, and of that one to OUTPUT."""
    fetch()
    old = shutil.copytree(fetch.output, fetch.output.with_name("old"))
    fetch.output.rename(fetch.download)
    old.rename(fetch.download / REPLACED)
    hub.forget()
    assert f"is ready: {REPOS[0]} at {COMMIT}" in fetch()
    assert hub.requests == []
    assert [path.name for path in fetch.output.parent.iterdir()] == ["checkpoint"]
    (fetch.output / REPLACED).mkdir()  # killed before it was removed
    assert "is up to date" in fetch()
    assert not (fetch.output / REPLACED).exists()


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
    """Each run writes its plan and gets one step further, or two: a file, the manifest, the old
    output moved away, the new one in its place."""
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
