"""Fetching from a hub on this machine with the real huggingface_hub: whole, pinned, repaired."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from checkpoints.manifest import MANIFEST, read_manifest
from checkpoints.nvfp4 import open_checkpoint
from fetch_checkpoint import REPOS

from tests.support.hub_fetcher import COMMIT, NAMED_TEMPLATE, OLDER, SECOND, TOKEN, Fetcher, stalled
from tests.support.hub_server import LocalHub

pytest_plugins = ("tests.support.hub_fixtures",)


def test_a_fetch_brings_what_a_build_needs(
    fetch: Fetcher, hub: LocalHub, repository_files: Path
) -> None:
    out = fetch()
    fetched = {path.name for path in fetch.output.iterdir()}
    unneeded = {"README.md", ".gitattributes", "original"}
    assert fetched == {path.name for path in repository_files.iterdir()} - unneeded | {MANIFEST}
    assert [path.name for path in (fetch.output / NAMED_TEMPLATE).parent.iterdir()] == [
        "tool_use.jinja"
    ]
    for name in fetched - {MANIFEST, "additional_chat_templates"} | {NAMED_TEMPLATE}:
        assert (fetch.output / name).read_bytes() == (repository_files / name).read_bytes()
    assert open_checkpoint(fetch.output).data_bytes == 4_758_400
    assert not fetch.download.exists()
    assert f"main of {REPOS[0]} is {COMMIT}; --revision {COMMIT} pins it\n" in out
    assert "195 tensors, 4,758,400 bytes, 6 layers, NVFP4" in out
    assert re.search(r"fetching 10 small files, [\d,]+ bytes: ", out)
    assert re.search(r"fetching model-00002-of-00004\.safetensors \(2 of 4\), [\d,]+ bytes: ", out)
    assert "\r" not in out


def test_manifest_describes_the_files(fetch: Fetcher, hub: LocalHub) -> None:
    fetch()
    manifest = read_manifest(fetch.output)
    assert manifest is not None
    assert (manifest.repo, manifest.commit) == (REPOS[0], COMMIT)
    files = {path.name for path in fetch.output.iterdir() if path.is_file()} - {MANIFEST}
    assert manifest.files.keys() == files | {NAMED_TEMPLATE}
    out = fetch("--check", str(fetch.output))
    assert f"14 of 14 files are what {MANIFEST} ({REPOS[0]} at {COMMIT}) states" in out


def test_token_goes_only_to_the_hub(fetch: Fetcher, hub: LocalHub) -> None:
    fetch()
    storage = [request for request in hub.requests if request.path.startswith("/lfs/")]
    others = [request for request in hub.requests if request not in storage]
    assert {request.authorization for request in others} == {f"Bearer {TOKEN}"}
    assert {request.authorization for request in storage} == {""}
    assert all(request.host.startswith("localhost:") for request in storage)


def test_rerun_makes_no_request(fetch: Fetcher, hub: LocalHub) -> None:
    fetch()
    hub.forget()
    assert f"is up to date: {REPOS[0]} at {COMMIT}" in fetch()
    assert f"is up to date: {REPOS[0]} at {COMMIT}" in fetch("--revision", COMMIT)
    assert hub.requests == []


def test_pinned_commit_is_fetched_whatever_main_is(
    fetch: Fetcher, hub: LocalHub, repository_files: Path
) -> None:
    older = hub.repositories[REPOS[0]].commits[OLDER] = fetch.output.parent / "older"
    shutil.copytree(repository_files, older)
    (older / "LICENSE").write_text("an older licence")
    out = fetch("--revision", OLDER)
    assert "main of" not in out
    assert (fetch.output / "LICENSE").read_text() == "an older licence"
    assert "is up to date" in fetch()  # the commit that was fetched, not what main is
    hub.forget()
    fetch("--revision", COMMIT)  # replaces it, and links what did not change
    assert (fetch.output / "LICENSE").read_text() == "the text of LICENSE"
    assert [name for name in os.listdir(older) if hub.downloads(name)] == ["LICENSE"]
    assert sorted(path.name for path in fetch.output.parent.iterdir()) == ["checkpoint", "older"]


def test_second_name_is_tried(fetch: Fetcher, hub: LocalHub) -> None:
    hub.repositories[REPOS[1]] = hub.repositories.pop(REPOS[0])
    assert f"the hub shows no {REPOS[0]}; trying {REPOS[1]}" in fetch()
    hub.forget()
    assert "is up to date" in fetch()
    assert hub.requests == []


def test_renamed_repository_is_followed(fetch: Fetcher, hub: LocalHub) -> None:
    hub.repositories[REPOS[1]] = hub.repositories.pop(REPOS[0])
    hub.renamed[REPOS[0]] = REPOS[1]
    assert f"{REPOS[0]} is now called {REPOS[1]}" in fetch()
    hub.forget()
    assert "is up to date" in fetch("--repo", REPOS[0])
    assert hub.requests == []


def test_changed_file_is_fetched_again(fetch: Fetcher, hub: LocalHub) -> None:
    fetch()
    name = "model-00002-of-00004.safetensors"
    content = (fetch.output / name).read_bytes()
    (fetch.output / name).write_bytes(content[:-1] + b"!")
    (fetch.output / "LICENSE").unlink()
    hub.forget()
    hub.repositories[REPOS[0]].main = OLDER
    out = fetch()
    assert "has changed since it was fetched; fetching what changed" in out
    assert sorted(path.name for path in fetch.output.iterdir() if hub.downloads(path.name)) == [
        "LICENSE",
        name,
    ]
    assert (fetch.output / name).read_bytes() == content
    assert "14 of 14 files" in fetch("--check", str(fetch.output))


def test_progress_of_each_file_is_printed(fetch: Fetcher, large_hub: LocalHub) -> None:
    process = stalled(fetch, large_hub, SECOND, "host.console.PLAIN_PROGRESS_INTERVAL_S = 0")
    line = rf"fetching {SECOND} \(2 of 2\), 20,\d+,\d+ bytes \.\.\. 0\.0 of 0\.0 GB\n"
    assert process.stdout is not None
    assert any(re.fullmatch(line, printed) for printed in process.stdout)
    process.kill()
    process.communicate()
