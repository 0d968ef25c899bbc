"""A hub with checkpoints and a process that fetches them: a pytest plugin."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fetch_checkpoint import REPOS

from tests.support.hub_fetcher import COMMIT, Fetcher, in_shards
from tests.support.hub_server import LocalHub, Repository, serving
from tests.support.paths import DEMO_CHECKPOINT
from tests.support.small_engines import write_checkpoint


@pytest.fixture(scope="session")
def repository_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo checkpoint in four shards."""
    return in_shards(DEMO_CHECKPOINT, tmp_path_factory.mktemp("hub") / "demo", 1_500_000)


@pytest.fixture(scope="session")
def large_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of 20 MB: huggingface_hub writes a download in chunks of 10 MB."""
    folder = tmp_path_factory.mktemp("large")
    return write_checkpoint(folder / "checkpoint", shard_bytes=21_000_000, vocab_size=160_000)


@pytest.fixture
def hub(repository_files: Path) -> Iterator[LocalHub]:
    hub = LocalHub()
    hub.repositories[REPOS[0]] = Repository({COMMIT: repository_files}, COMMIT)
    with serving(hub):
        yield hub


@pytest.fixture
def large_hub(hub: LocalHub, large_files: Path) -> LocalHub:
    hub.repositories[REPOS[0]] = Repository({COMMIT: large_files}, COMMIT)
    return hub


@pytest.fixture
def fetch(hub: LocalHub, tmp_path: Path) -> Fetcher:
    return Fetcher(hub, tmp_path)
