"""Engines and servers that several test files share. Every server is a real tritonserver."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from llama_fp4 import Client
from serving.child_server import ServerProcess, free_ports

from tests.support.deployments import make_deployment

PROGRAMS = ("bash", "curl", "make", "openssl")
MOST_WORKERS = 6
LONG_FILES = (
    "tests/test_readme.py",
    "tests/build/test_fetch_resume.py",
    "tests/build/test_all.py",
    "tests/build/test_verify.py",
    "tests/preprocessing/test_chat_injection.py",
    "tests/loadtest/test_run.py",
    "tests/loadtest/test_full_disk.py",
    "tests/loadtest/test_mix_run.py",
    "tests/serving/test_serve_start.py",
)
MakeRepository = Callable[..., Path]
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # it forks, on a thread


def pytest_configure(config: pytest.Config) -> None:
    """The suite needs what the README's commands need, and openssl for certificates.

    SIGINT and SIGQUIT must reach what the tests start: a shell that runs them in the background
    ignores both, and their children would inherit that.
    """
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing and not hasattr(config, "workerinput"):
        names = " ".join(missing)
        raise pytest.UsageError(f"the suite needs {names}: run 'apt-get install {names}'")
    if importlib.util.find_spec("hypothesis"):  # `make test-gpu` has none
        from hypothesis import settings

        # A busy machine exceeds its limit of 200 ms per example.
        settings.register_profile("any machine", deadline=None)
        settings.load_profile("any machine")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Long files start first, so that none is the last to end."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: item.nodeid.partition("::")[0] not in LONG_FILES)


@pytest.hookimpl(optionalhook=True)  # an engine's own interpreter has no xdist
def pytest_xdist_auto_num_workers() -> int:
    """`-n auto`: one more than the cores, because many tests wait for a process.

    But only a few, because each worker may hold several servers.
    """
    return min(len(os.sched_getaffinity(0)) + 1, MOST_WORKERS)


@pytest.fixture(scope="session")
def make_repository(tmp_path_factory: pytest.TempPathFactory) -> MakeRepository:
    """`make_repository("--runtime", "replay", ...)`: compiled, assembled, ready to serve."""

    def make(*arguments: str) -> Path:
        return make_deployment(tmp_path_factory.mktemp("deployment"), *arguments)

    return make


@pytest.fixture(scope="session")
def replay_repository(make_repository: MakeRepository) -> Path:
    """A replay engine at full speed."""
    return make_repository("--runtime", "replay")


@pytest.fixture(scope="session")
def replay_server(
    replay_repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    """A server that tests must leave as it is."""
    yield from serving(replay_repository, tmp_path_factory.mktemp("replay-server"))


@pytest.fixture
def server(replay_repository: Path, tmp_path: Path) -> Iterator[ServerProcess]:
    """A server that the test may kill."""
    server = ServerProcess(replay_repository, free_ports(), tmp_path / "server.log")
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def demo_server(
    make_repository: MakeRepository, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    """The demo checkpoint on OpenVINO in f32; tests must leave the server as it is."""
    repository = make_repository("--runtime", "openvino", "--precision", "f32")
    yield from serving(repository, tmp_path_factory.mktemp("demo-server"))


def serving(repository: Path, folder: Path) -> Iterator[ServerProcess]:
    """A running server; at the end its exit code must be 0, with nothing left behind."""
    server = ServerProcess(repository, free_ports(), folder / "server.log")
    server.start()
    try:
        yield server
    finally:
        code = server.stop()
    assert code == 0, server.log()


@pytest.fixture(scope="module")
def narrow_server(
    make_repository: MakeRepository, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    """33 tokens a second, for one sequence at a time: the others wait."""
    pace = ("--step-seconds", "0.03", "--max-batch-size", "1")
    repository = make_repository("--runtime", "replay", *pace)
    yield from serving(repository, tmp_path_factory.mktemp("narrow"))


@pytest.fixture
def replay_client(replay_server: ServerProcess) -> Iterator[Client]:
    with Client(replay_server.ports.url("grpc")) as client:
        yield client


@pytest.fixture
def demo_client(demo_server: ServerProcess) -> Iterator[Client]:
    with Client(demo_server.ports.url("grpc")) as client:
        yield client


# Tests that need torch, vLLM or a browser have their own environments and targets, `make
# test-quantize`, `make test-page` and `make test-vllm`; the last passes vLLM's interpreter to the
# tests of the server.
collect_ignore = [] if importlib.util.find_spec("modelopt") else ["quantize"]
collect_ignore += [] if importlib.util.find_spec("vllm") else ["with_vllm/test_vllm_itself.py"]
collect_ignore += [] if "VLLM_PYTHON" in os.environ else ["with_vllm/test_ensemble_vllm.py"]
PAGE_TESTS = ["client/gateway/test_chat_page.py", "client/gateway/test_chat_markdown.py"]
collect_ignore += [] if importlib.util.find_spec("playwright") else PAGE_TESTS
collect_ignore += [] if "GPU_SETTING" in os.environ else ["with_gpu"]  # `make test-gpu`
