"""A fetch that fails gives one sentence with the remedy, and no output."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from checkpoints.manifest import MANIFEST
from fetch_checkpoint import REPOS

from tests.support.hub_fetcher import COMMIT, FULL, Fetcher
from tests.support.hub_server import Fault, LocalHub

pytest_plugins = ("tests.support.hub_fixtures",)


def test_corrupted_small_file_is_refused(fetch: Fetcher, hub: LocalHub) -> None:
    hub.faults["LICENSE"] = Fault(content=b"the text of LICENCE")
    error = fetch.refused()
    assert re.search(r"LICENSE has the git SHA-1 \w+, the hub states \w+", error)


@pytest.mark.parametrize(
    "fault",
    [Fault(content=b"short"), Fault(content=b"longer than the text of LICENSE"), Fault(status=503)],
)
def test_wrong_size_and_failing_storage(fetch: Fetcher, hub: LocalHub, fault: Fault) -> None:
    hub.faults["LICENSE"] = fault
    error = fetch.refused()
    assert re.search(
        r"(LICENSE has \d+ bytes, the hub states 19; the damaged file was removed,"
        r"|answers 503; wait some minutes and) run the same",
        error,
    )
    assert not fetch.output.exists()
    hub.faults.clear()
    fetch()


def test_expired_address_of_the_storage_is_not_a_refusal(fetch: Fetcher, hub: LocalHub) -> None:
    name = "model-00001-of-00004.safetensors"
    hub.faults[name] = Fault(status=403)
    assert re.search(rf"{name} did not arrive whole \(\w+\); run the same command", fetch.refused())


def test_listed_file_that_does_not_exist(fetch: Fetcher, hub: LocalHub) -> None:
    hub.repositories[REPOS[0]].missing_files.add("NOTICE")
    assert f"lists a file that it does not have at {COMMIT}" in fetch.refused()


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (401, "is gated: accept its licence on that page, then log in with 'hf auth login' or set"),
        (403, "is gated and the account of your token has no access: accept the licence"),
    ],
)
def test_gated_repository(fetch: Fetcher, hub: LocalHub, status: int, expected: str) -> None:
    hub.repositories[REPOS[0]].gated_status = status
    error = fetch.refused()
    assert f"{hub.endpoint}/{REPOS[0]} {expected}" in error
    assert "give --from a folder" in error


def test_missing_repository(fetch: Fetcher, hub: LocalHub) -> None:
    error = fetch.refused("--repo", "nvidia/nothing")
    assert f"{hub.endpoint} has no repository nvidia/nothing" in error
    hub.repositories.clear()
    assert f"has no repository {REPOS[1]}" in fetch.refused()
    assert list(fetch.output.parent.iterdir()) == []


def test_missing_revision(fetch: Fetcher, hub: LocalHub) -> None:
    error = fetch.refused("--revision", "c3" * 20)
    assert f"{REPOS[0]} has no revision {'c3' * 20} any more, or never had; give --revis" in error
    assert f"a commit id from {hub.endpoint}/{REPOS[0]}/commits/main" in error


@pytest.mark.parametrize("revision", ["main", "v1.0", COMMIT[:10], COMMIT.upper()])
def test_revision_is_a_commit_id(fetch: Fetcher, hub: LocalHub, revision: str) -> None:
    assert "--revision must be a commit id of 40 hex digits, not" in fetch.refused(
        "--revision", revision
    )
    assert hub.requests == []


def test_offline_and_unreachable(fetch: Fetcher, hub: LocalHub) -> None:
    fetch.environment["HF_HUB_OFFLINE"] = "1"
    assert "HF_HUB_OFFLINE is set, so the hub cannot be asked; unset it, or give" in fetch.refused()
    assert hub.requests == []
    del fetch.environment["HF_HUB_OFFLINE"]
    fetch.environment["HF_ENDPOINT"] = "http://127.0.0.1:9"
    error = fetch.refused()
    assert re.search(r"http://127\.0\.0\.1:9 cannot be reached \(\w+\); look at the network", error)
    assert list(fetch.output.parent.iterdir()) == []


def test_refused_token(fetch: Fetcher, hub: LocalHub) -> None:
    hub.api_status, hub.api_error = 401, "Invalid credentials in Authorization header"
    assert f"{hub.endpoint} refuses the token (401); log in anew" in fetch.refused()
    hub.api_status, hub.api_error = 403, ""
    assert "is forbidden to the account of your token (403)" in fetch.refused()
    hub.api_status = 500
    assert f"{hub.endpoint} answers 500; wait some minutes and run the same" in fetch.refused()


def test_endpoint_that_is_not_a_hub(fetch: Fetcher, hub: LocalHub) -> None:
    """Another server's address, or a network that answers with its login page."""
    hub.api_status = 404
    error = fetch.refused()
    assert f"{REPOS[0]} answers 404; look at HF_ENDPOINT, the proxy, and" in error
    hub.api_status, hub.api_page = 0, b"<html>Welcome! Accept our terms to go online.</html>"
    assert f"{hub.endpoint} does not answer as a hub does; look at HF_ENDPOINT" in fetch.refused()


def test_package_of_an_incompatible_version(fetch: Fetcher, hub: LocalHub) -> None:
    other = "import huggingface_hub; huggingface_hub.hf_hub_download = lambda repo: None"
    error = fetch.refused(prelude=other)
    assert "huggingface_hub failed with TypeError; install the one that this project was" in error


def test_missing_package(fetch: Fetcher) -> None:
    error = fetch.refused(prelude="sys.modules['huggingface_hub'] = None")
    assert "huggingface_hub cannot be imported" in error
    assert "tried with: pip install '.[fetch]', or give --from a folder" in error


def test_disk_too_small_is_refused_before_the_weights(fetch: Fetcher, hub: LocalHub) -> None:
    error = fetch.refused(prelude=FULL.format(65 * 2**20))
    assert re.search(r"the disk is full: .* still needs 0\.07 GB and has 0\.07 GB free", error)
    assert not any(request.path.startswith("/lfs/") and "safetensors" in request.path
                   for request in hub.requests)  # fmt: skip
    fetch(prelude=FULL.format(72 * 2**20))


def edit(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"model_type": "mixtral"}, "model_type is 'mixtral', but must be 'llama'"),
        ({"intermediate_size": 1024}, None),
    ],
)
def test_unfit_repository_is_refused(
    fetch: Fetcher, hub: LocalHub, repository_files: Path, tmp_path: Path,
    change: dict[str, object], expected: str | None,
) -> None:  # fmt: skip
    folder = hub.repositories[REPOS[0]].commits[COMMIT] = tmp_path / "other"
    shutil.copytree(repository_files, folder)
    edit(folder / "config.json", **change)
    error = fetch.refused()
    assert f"{REPOS[0]} at {COMMIT} was fetched whole, but is refused: " in error
    assert (expected or "config.json calls for U8") in error
    # A fault in config.json is found before the weights are fetched.
    assert bool(hub.downloads("model-00001-of-00004.safetensors")) is (expected is None)
    assert not fetch.output.exists()


def test_index_that_names_another_shard(
    fetch: Fetcher, hub: LocalHub, repository_files: Path, tmp_path: Path
) -> None:
    folder = hub.repositories[REPOS[0]].commits[COMMIT] = tmp_path / "other"
    shutil.copytree(repository_files, folder)
    (folder / "model-00004-of-00004.safetensors").unlink()
    error = fetch.refused()
    assert "states no size and hash of model-00004-of-00004.safetensors" in error


def test_repository_without_a_tokenizer(
    fetch: Fetcher, hub: LocalHub, repository_files: Path, tmp_path: Path
) -> None:
    folder = hub.repositories[REPOS[0]].commits[COMMIT] = tmp_path / "other"
    shutil.copytree(repository_files, folder)
    (folder / "tokenizer.json").unlink()
    assert f"{REPOS[0]} at {COMMIT} has no tokenizer.json" in fetch.refused()


def test_folders_of_another_kind_are_left_alone(fetch: Fetcher, hub: LocalHub) -> None:
    fetch.output.mkdir()
    letter = fetch.output / "letter.txt"
    letter.write_text("dear")
    assert f"is not empty and holds no {MANIFEST}; give another --output" in fetch.refused()
    fetch.output.rename(fetch.download)
    assert f"{fetch.download} is not empty and no earlier run wrote it; move it" in fetch.refused()
    assert (fetch.download / "letter.txt").read_text() == "dear"
    assert hub.requests == []
    fetch.output.write_text("a file")
    assert f"{fetch.output} is not a folder; give another --output" in fetch.refused()
