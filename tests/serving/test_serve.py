"""serve.py: how it starts, how it refuses to, and that nothing stays behind however it ends."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from queue import SimpleQueue

import pytest
import serve
from assemble_repository import assemble
from llama_fp4 import Client, LlamaError
from serve_signals import DIRECTORY_VARIABLE, OPEN, REQUEST, SIGNS, DrainRequest
from serving import find_triton as triton_installation
from serving import run as triton_run
from serving.child_server import ServerProcess, free_ports
from serving.find_triton import TritonNotFound

from tests.support.paths import BUILD, ROOT
from tests.support.processes import (
    PATIENCE_S,
    Remains,
    eventually,
    server_of,
    wait_until_the_engine_works,
)
from tests.support.triton_calls import post


def signs_of(server: ServerProcess) -> set[str]:
    """The files by which the server's models report their start."""
    triton = server_of(server.pid)
    variables = Path(f"/proc/{triton}/environ").read_bytes().decode().split("\0")
    (folder,) = (
        text.partition("=")[2] for text in variables if text.startswith(f"{DIRECTORY_VARIABLE}=")
    )
    return set(os.listdir(folder))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_server_with_exit_code_0(server: ServerProcess, number: int) -> None:
    assert {*SIGNS.values(), OPEN} <= signs_of(server)  # without one, the start looks stuck
    remains = Remains(server)
    os.kill(server.pid, number)
    assert server.wait() == 0
    assert not remains.found()
    assert "tritonserver was ended" not in server.log()


def test_a_host_name_is_resolved(replay_repository: Path, tmp_path: Path) -> None:
    """Triton's HTTP frontend would bind 255.255.255.255 for a name, and say nothing."""
    named = dataclasses.replace(free_ports(), host="localhost")
    with ServerProcess(replay_repository, named, tmp_path / "server.log") as server:
        body = {"text_input": "Hello", "max_tokens": 2}
        status, _ = post(server, "/v2/models/ensemble/generate", body)
        assert status == 200


@pytest.mark.parametrize("host", ["::1", "", "no such host"])
def test_a_host_that_triton_cannot_listen_on_is_refused(
    host: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        serve.main(["--host", host])
    assert ended.value.code == 2
    assert f"must be an IPv4 address or the name of one, not {host!r}" in capsys.readouterr().err


def test_an_empty_drain_request_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read as 0 seconds, it would cut off every request in flight."""
    monkeypatch.setenv(DIRECTORY_VARIABLE, str(tmp_path))
    drain = DrainRequest()
    (tmp_path / REQUEST).touch()
    assert not drain.is_asked()
    triton_run.Drain(tmp_path, 30).ask()
    assert drain.is_asked()
    assert not drain.is_overdue()


def test_requests_in_flight_finish_before_the_stop(make_paced: Path, tmp_path: Path) -> None:
    server = ServerProcess(make_paced, free_ports(), tmp_path / "server.log")
    server.start()
    with Client(server.ports.url("grpc")) as client:
        chunks = client.stream("Hello there", max_tokens=40)
        first = next(chunks)
        os.kill(server.pid, signal.SIGTERM)
        rest = list(chunks)
    assert rest[-1].finish_reason == "length"
    assert first.num_output_tokens + sum(chunk.num_output_tokens for chunk in rest) == 40
    assert server.wait() == 0


def test_a_unary_request_in_flight_finishes_before_the_stop(
    make_paced: Path, tmp_path: Path
) -> None:
    server = ServerProcess(make_paced, free_ports(), tmp_path / "server.log")
    server.start()
    answers: SimpleQueue[tuple[int, str]] = SimpleQueue()
    body = {"text_input": "Hello there", "max_tokens": 60}
    path = "/v2/models/tensorrt_llm_bls/generate"
    thread = threading.Thread(target=lambda: answers.put(post(server, path, body)))
    thread.start()
    wait_until_the_engine_works(server)
    os.kill(server.pid, signal.SIGTERM)
    status, answer = answers.get(timeout=PATIENCE_S)
    thread.join()
    assert (status, json.loads(answer)["num_output_tokens"]) == (200, 60)
    assert server.wait() == 0


@pytest.fixture(scope="module")
def make_paced(make_repository: object) -> Path:
    return make_repository("--runtime", "replay", "--step-seconds", "0.02")  # type: ignore[operator,no-any-return]


def test_killing_triton_leaves_nothing_behind(server: ServerProcess) -> None:
    remains = Remains(server)
    os.kill(remains.triton, signal.SIGKILL)
    assert server.wait() == 128 + signal.SIGKILL
    assert not remains.found()


def test_stubs_that_hang_are_killed_and_their_memory_freed(server: ServerProcess) -> None:
    remains = Remains(server)
    for stub in remains.stubs:
        os.kill(stub.pid, signal.SIGSTOP)
    os.kill(remains.triton, signal.SIGKILL)
    assert server.wait() == 128 + signal.SIGKILL
    assert not remains.found()


def test_killing_serve_itself_leaves_nothing_behind(server: ServerProcess) -> None:
    remains = Remains(server)
    os.kill(server.pid, signal.SIGKILL)
    eventually(lambda: not remains.found(), "tritonserver, its stubs and their memory are gone")


def run_serve(*arguments: str) -> subprocess.CompletedProcess[str]:
    script = [sys.executable, str(BUILD / "serve.py"), *arguments]
    return subprocess.run(script, capture_output=True, text=True, timeout=500)


def assert_one_sentence(result: subprocess.CompletedProcess[str], *words: str) -> None:
    assert result.returncode != 0
    assert "Traceback" not in result.stderr
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    for word in words:
        assert word in line, line


@pytest.mark.parametrize("name", ["http", "grpc", "metrics"])
def test_a_port_in_use(replay_repository: Path, name: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        result = run_serve("--model-repository", str(replay_repository), f"--{name}-port", port)
    assert_one_sentence(result, port, "in use", f"--{name}-port")


def test_no_engine(tmp_path: Path) -> None:
    for room in ("ensemble", "tensorrt_llm"):
        (tmp_path / room).mkdir()
        (tmp_path / room / "config.pbtxt").write_text(
            (ROOT / "model_repository" / room / "config.pbtxt").read_text()
        )
    assert_one_sentence(
        run_serve("--model-repository", str(tmp_path)), "there is no engine", "make engine"
    )


@pytest.mark.parametrize("name", ["two words", "it's", "Müller", "a;b", "a$b", "(1)"])
def test_a_path_that_tritons_shell_would_misread_is_refused(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its Python backend hands paths to a shell unquoted, and would wait for stubs forever."""
    repository = tmp_path / name
    for file in ("ensemble/config.pbtxt", "tensorrt_llm/1/engine/engine.json"):
        (repository / file).parent.mkdir(parents=True)
        (repository / file).touch()
    ports = free_ports()
    numbers = [f"--http-port={ports.http}", f"--grpc-port={ports.grpc}"]
    with pytest.raises(SystemExit):
        serve.main(
            [
                f"--model-repository={repository}",
                *numbers,
                f"--metrics-port={ports.metrics}",
                "--no-gateway",
            ]
        )
    said = capsys.readouterr().err
    assert said.startswith(f"error: {repository} has ")
    assert said.endswith("no space, no quote and no letter beyond ASCII\n")
    serve.check_path(Path("/srv/llama-3.1_8b+x/a:b,c@d%20=[1]#2~"))  # with which it starts


def test_no_repository(tmp_path: Path) -> None:
    assert_one_sentence(
        run_serve("--model-repository", str(tmp_path)), str(tmp_path), "--model-repository"
    )


@pytest.mark.parametrize(
    ("room", "name", "content", "words"),
    [
        ("tensorrt_llm", "engine.json", "{", ("engine.json", "make engine")),
        (
            "tensorrt_llm",
            "engine.json",
            '{"format_version": 1, "speed": 2}',
            ("unknown key 'speed'",),
        ),
        ("tensorrt_llm", "token_bytes.npz", "x", ("token_bytes.npz", "make engine")),
        (
            "preprocessing",
            "tokenizer.json",
            "x",
            ("preprocessing", "tokenizer.json cannot be used", "give a checkpoint"),
        ),
        ("postprocessing", "token_bytes.npz", "x", ("token_bytes.npz", "make engine")),
    ],
)
def test_a_damaged_engine_is_named_with_the_remedy(
    replay_repository: Path,
    tmp_path: Path,
    room: str,
    name: str,
    content: str,
    words: tuple[str, ...],
) -> None:
    repository = tmp_path / "model_repository"
    assemble(replay_repository / "tensorrt_llm" / "1" / "engine", repository)
    target = repository / room / "1" / "engine" / name
    target.unlink()  # a hard link: writing through it would damage the other repository
    target.write_text(content)
    ports = free_ports().arguments()
    result = run_serve("--model-repository", str(repository), *ports)
    assert_one_sentence(result, *words)


def test_compiled_python_beside_the_links_does_no_harm(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Python writes __pycache__ there, and an installer may later write one into the package."""
    monkeypatch.setattr(shutil, "which", lambda name: None)
    package = tmp_path / "pytriton"
    backend = package / "tritonserver" / "backends" / "python"
    stub = package / "tritonserver" / "python_backend_stubs" / triton_installation.PYTHON
    for folder in (backend / "__pycache__", stub):
        folder.mkdir(parents=True)
    for file in (backend / "utils.py", stub / "triton_python_backend_stub"):
        file.touch()
    monkeypatch.setattr(triton_installation, "_pytriton_package", lambda: package)
    staged = triton_installation.find_triton(tmp_path / "staged").backend_directory
    assert staged is not None
    (staged / "python" / "__pycache__").mkdir()
    assert triton_installation.find_triton(tmp_path / "staged").backend_directory == staged


def test_an_unsupported_python_and_a_missing_libpython(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(triton_installation, "LIBPYTHON", "libpython9.99.so.1.0")
    with pytest.raises(
        TritonNotFound, match=r"libpython9.99.so.1.0 was not .*apt-get install libpython"
    ):
        triton_installation.find_triton(tmp_path)
    monkeypatch.setattr(triton_installation, "PYTHON", "3.14")
    with pytest.raises(TritonNotFound, match=r"Python must be one of 3\.10, .*, not 3\.14"):
        triton_installation.find_triton(tmp_path)


def test_a_refused_request_says_why(server: ServerProcess) -> None:
    with (
        Client(server.ports.url("grpc")) as client,
        pytest.raises(LlamaError, match="text_input is empty"),
    ):
        client.generate("")
