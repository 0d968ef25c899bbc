"""Upstream's own client scripts, unmodified, on a repository made with --unary.

They are not part of this repository: UPSTREAM_CLIENTS names a folder that has upstream's `tools/`
and `inflight_batcher_llm/client/` (tensorrtllm_backend, tried with v0.16 and v0.19). Without it
these tests are skipped; test_unary_repository.py imitates the same scripts. The scripts need pandas
and tabulate.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from assemble_repository import assemble
from serving.child_server import ServerProcess

from tests.conftest import MakeRepository, serving
from tests.support.paths import DEMO_CHECKPOINT

CLIENTS = os.environ.get("UPSTREAM_CLIENTS", "")
MISSING = [name for name in ("pandas", "tabulate") if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.skipif(not CLIENTS, reason="UPSTREAM_CLIENTS names no folder of upstream's"),
    pytest.mark.skipif(bool(MISSING), reason=f"upstream's clients need {', '.join(MISSING)}"),
]
TOOLS = Path(CLIENTS, "tools", "inflight_batcher_llm")
TOKENS = Path(CLIENTS, "inflight_batcher_llm", "client", "inflight_batcher_llm_client.py")
TEXTS = TOKENS.with_name("end_to_end_grpc_client.py")
# What end_to_end_test.py asks of torch, where that is not installed.
TORCH = "class cuda:\n    synchronize = staticmethod(lambda: None)\n"
DATASET = [
    {"input": "James Best, best known for", "instruction": "Go on.", "output": "a b c d e f g"},
    {"input": "The cat is", "instruction": "Say more.", "output": "one two three four"},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the scripts read."""
    made = tmp_path_factory.mktemp("scripts")
    (made / "dataset.json").write_text(json.dumps(DATASET), encoding="utf-8")
    (made / "prompt.csv").write_text("5,6,7,8\n", encoding="utf-8")
    (made / "answer.csv").write_text("5,6,7,8,5,6,7,8,5,6\n", encoding="utf-8")
    if importlib.util.find_spec("torch") is None:
        (made / "torch.py").write_text(TORCH, encoding="utf-8")
    return made


@pytest.fixture(scope="module")
def unary_server(make_repository: MakeRepository, folder: Path) -> Iterator[ServerProcess]:
    made = make_repository("--runtime", "replay", "--step-seconds", "0.01")
    assemble(made.with_name("engine"), made.with_name("unary"), unary=True)
    yield from serving(made.with_name("unary"), folder)


def run(script: Path, folder: Path, *arguments: str) -> str:
    """The script's output; its exit code must be 0."""
    environment = {**os.environ, "PYTHONPATH": f"{folder}:{os.environ.get('PYTHONPATH', '')}"}
    done = subprocess.run(
        [sys.executable, str(script), *arguments],
        cwd=script.parent,
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_end_to_end_test(unary_server: ServerProcess, folder: Path, protocol: str) -> None:
    url = unary_server.ports.url(protocol)
    limits = ("--max-input-len", "300", "--dataset", str(folder / "dataset.json"))
    said = run(
        TOOLS / "end_to_end_test.py", folder, "-i", protocol, "-u", url, *limits, "--test-bls"
    )
    assert "[INFO] Functionality test succeed" in said
    assert "[INFO] Total Latency" in said


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_benchmark_core_model(unary_server: ServerProcess, folder: Path, protocol: str) -> None:
    """Its other workloads are refused: they draw ids up to 2^31, which are no tokens."""
    address = ("-i", protocol, "-u", unary_server.ports.url(protocol), "--max-input-len", "300")
    data = ("--dataset", str(folder / "dataset.json"), "--tokenizer-dir", str(DEMO_CHECKPOINT))
    said = run(TOOLS / "benchmark_core_model.py", folder, *address, "dataset", *data)
    assert "[INFO] Total Latency" in said


def test_inflight_batcher_llm_client(unary_server: ServerProcess, folder: Path) -> None:
    prompt = ("--input-tokens-csv", str(folder / "prompt.csv"))
    checked = ("--output-tokens-csv", str(folder / "answer.csv"), "--check-output")
    address = ("-u", unary_server.ports.url("grpc"))
    said = run(TOKENS, folder, *address, *prompt, *checked, "--request-output-len", "6")
    assert "PASS!" in said
    long = ("--request-output-len", "1500", "--stop-after-ms", "300", "--request-id", "1")
    for more in ((), ("--stop-via-request-cancel",)):
        run(TOKENS, folder, *address, *prompt, *long, *more)


def test_end_to_end_grpc_client(unary_server: ServerProcess, folder: Path) -> None:
    address = ("-u", unary_server.ports.url("grpc"))
    said = run(TEXTS, folder, *address, "-p", "The cat is", "-o", "5")
    assert "The cat isThe cat is" in said
