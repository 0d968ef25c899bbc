"""Runs the commands of every README as they are written, against the server that they describe."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from engines.profile import load_profile
from engines.tensorrt_llm_step import IMAGE
from llama_fp4 import Client
from serving.child_server import Ports, ServerProcess, free_ports

from tests.conftest import MakeRepository
from tests.support.gateway_calls import gateway_of
from tests.support.paths import BUILD, DEMO_CHECKPOINT, ROOT
from tests.support.processes import eventually

# The root's, then each folder's; not what the build writes.
READMES = [
    path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", *sorted(ROOT.glob("[a-z]*/**/README.md")))
    if not path.is_relative_to(BUILD / "out")
]
README = READMES[0]
BLOCKS = [
    block
    for text in READMES
    for block in re.findall(r"^```(sh|python)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
]
(BLACKWELL,) = (text.splitlines() for kind, text in BLOCKS if "docker" in text)
COMMANDS = list(
    dict.fromkeys(  # each once: a folder's README may repeat the root's
        line
        for kind, text in BLOCKS
        if kind == "sh" and "docker" not in text
        for line in text.splitlines()
    )
)
SNIPPETS = [text for kind, text in BLOCKS if kind == "python"]
LIMIT_S = 500

# Run elsewhere: this suite is `make test`, training the demo takes an hour and torch, and the 8B
# shape 12 GB of disk.
NOT_RUN_HERE = (
    "make test",
    "make train-demo",
    "make_checkpoint.py --shape llama-3.1-8b",
    "CHECKPOINT=/tmp/llama-8b",
)


def selected(words: str) -> list[str]:
    return [command for command in COMMANDS if words in command]


def on_ports(text: str, ports: Ports) -> str:
    """A command or a snippet, with these ports for the defaults."""
    named = {8000: ports.http, 8001: ports.grpc, 8002: ports.metrics, 9000: ports.gateway}
    for default, port in named.items():
        text = text.replace(f"localhost:{default}", f"127.0.0.1:{port}")
    return text


def run(command: str, ports: Ports, **variables: str) -> str:
    """Run a command on these ports; it must succeed. Returns its output."""
    command = on_ports(command, ports)
    # As a user's shell: under another make, make prints its folders, and its flags are passed on.
    outer = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    environment = {
        **outer,
        "HTTP_PORT": str(ports.http),
        "GRPC_PORT": str(ports.grpc),
        "METRICS_PORT": str(ports.metrics),
        "GATEWAY_PORT": str(ports.gateway),
        "VENV": sys.prefix,
        **variables,
    }
    result = subprocess.run(
        ["bash", "-c", command],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def served(demo_server: ServerProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ports]:
    with gateway_of(demo_server, tmp_path_factory.mktemp("gateway")) as gateway:
        yield dataclasses.replace(demo_server.ports, gateway=gateway.port)


def test_every_command_is_run_by_some_test() -> None:
    for command in COMMANDS:
        known = (
            "make demo",
            "curl",
            "make serve",
            "make engine PROFILE=demo",
            "make repository PROFILE=demo",
            "make verify",  # in test_verify.py
            "make loadtest",
            "llama-fp4",
            "assemble_repository.py --check",
            "serve.py --model-repository",
            "-m pytest -q",
            "-m tests.benchmarks.",
            "make benchmark",
            "make test-loadtest",
            "make bench-guides",
            *NOT_RUN_HERE,
        )
        assert any(words in command for words in known), command


def test_make_demo() -> None:
    (command,) = selected("make demo")
    output = run(f"{command} ONCE=1", free_ports(gateway=True))
    for words in ("machine: ", "server start: ", "engine load: ", "warm-up: ", "first token: "):
        assert words in output
    assert "In a small workshop stood a robot called Tom." in output
    again = run(f"{command} ONCE=1", free_ports(gateway=True))
    assert "is up to date" in again
    assert "building the graph" not in again
    raw, openai = re.findall(r"^  (curl .*)$", output, re.MULTILINE)
    assert "generate_stream" in raw
    assert "/v1/chat/completions" in openai


@pytest.mark.parametrize("command", selected("curl"))
def test_curl(served: Ports, command: str) -> None:
    assert '"finish_reason":"stop"' in run(command, served)


def test_curl_gets_the_right_answers(served: Ports) -> None:
    raw, chat = selected("curl")[:2]  # the root README's
    assert "Paris" in run(raw, served)
    assert "".join(re.findall(r'"text_output":"(.*?)"', run(chat, served))) == "2, 3, 4, 5, 6, 7."


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_python_snippet(served: Ports, snippet: str) -> None:
    code = on_ports(snippet, served)
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=LIMIT_S
    )
    assert result.returncode == 0, result.stderr
    if "AsyncClient" in snippet:
        first, *chunks, last = result.stdout.splitlines()
        assert first.startswith(" Paris")
        assert chunks
        assert last.endswith(" ms to the first token")
        return
    if '"choice"' in snippet:
        assert result.stdout in ("good\n", "bad\n")  # the demo model knows nothing of reviews
        return
    expected = "The opposite of hot is cold. [stop]"
    if "FunctionTransport" in snippet:
        expected = "Hello!"
    elif "guided_decoding_guide" in snippet:
        expected = "The opposite of hot is cold!"
    assert result.stdout == f"{expected}\n"


def test_make_engine_and_make_serve() -> None:
    """Compiles into the checkout's own repository, as the command says, and serves that."""
    (command,) = selected("make engine PROFILE=demo")
    run(command, free_ports(gateway=True))
    serve = selected("make serve")[0]
    ports = free_ports(gateway=True)
    environment = {**os.environ, "VENV": sys.prefix, "HTTP_PORT": str(ports.http)}
    environment |= {"GRPC_PORT": str(ports.grpc), "METRICS_PORT": str(ports.metrics)}
    environment |= {"GATEWAY_PORT": str(ports.gateway)}
    process = subprocess.Popen(
        serve.split(), cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, start_new_session=True
    )
    try:
        with Client(ports.url("grpc")) as client:
            eventually(client.is_ready, "the server of 'make serve' is ready")
            assert "Paris" in client.generate("The capital of France is", max_tokens=8).text
    finally:
        # As Ctrl-C in a terminal: to make and to what it runs.
        os.killpg(process.pid, 2)
        process.wait(LIMIT_S)


def test_a_benchmark(make_repository: MakeRepository) -> None:
    """The one that takes seconds; the other commands are only checked against their options."""
    (command,) = selected("tests.benchmarks.precisions")
    repository = make_repository("--runtime", "openvino", "--precision", "f32")
    engine = repository / "tensorrt_llm" / "1" / "engine"
    command = command.replace("build/out/engine", str(engine)).replace(".venv", sys.prefix)
    head, row = run(f"{command} --only /f32/f16 --steps 2", free_ports(gateway=True)).splitlines()
    assert head.count("|") == row.count("|")
    assert "| f32 | f16 |" in row


@pytest.mark.parametrize(
    "command", [*selected("make benchmark"), *selected("make test-"), *selected(".loadtest_truth")]
)
def test_a_benchmarks_options(command: str) -> None:
    if command.startswith("make "):
        command = run(
            f"{command} --dry-run --no-print-directory", free_ports(gateway=True)
        ).splitlines()[-1]
    (module,) = re.findall(r"-m (tests\.benchmarks\.\w+)", command)
    usage = run(f"{sys.executable} -m {module} --help", free_ports(gateway=True))
    for option in re.findall(r"--[a-z-]+", command):
        assert option in usage


def test_bench_guides(tmp_path: Path) -> None:
    """Broken lines are left out; the last line of the output is one JSON object."""
    (command,) = selected("make bench-guides")
    lines = [
        {"name": "x", "schema": {"type": "integer"}, "tests": [
            {"valid": True, "data": 5}, {"valid": False, "data": "5"}]},
        {"schema": {"type": "integer"}, "tests": [{"valid": False, "data": 5}]},
        {"schema": {"type": "string"}, "tests": [{"valid": True, "data": 5}]},
        {"schema": {"type": "strin"}},
        {"tests": []},
    ]  # fmt: skip
    file = tmp_path / "some.jsonl"
    file.write_text("{\n" + "\n".join(map(json.dumps, lines)))
    last = run(command.replace("FILE.jsonl", str(file)), free_ports(gateway=True)).splitlines()[-1]
    figures = json.loads(last)
    assert figures.pop("compile_ms_p50") <= figures.pop("compile_ms_p99")
    assert figures == {
        "schemas": 4, "accepted": 3, "all_right": 1, "valid_missed": 1, "invalid_matched": 1,
        "refused": 1,
    }  # fmt: skip


@pytest.mark.parametrize("command", selected("-m pytest -q"))
def test_a_test_file_alone(command: str) -> None:
    assert " passed" in run(command.replace(".venv", sys.prefix), free_ports(gateway=True))


def test_make_alone_prints_the_targets() -> None:
    output = run("make", free_ports(gateway=True))
    for target in ("demo", "serve", "test", "check", "doctor"):
        assert re.search(rf"^{target} ", output, re.MULTILINE)


def test_doctor_names_the_machine_and_every_runtime() -> None:
    output = run("make doctor", free_ports(gateway=True))
    for words in ("Python", "tritonserver", "GPU", "libpython", "memory"):
        assert re.search(rf"^{words} ", output, re.MULTILINE)
    assert re.search(r"^openvino +fits ", output, re.MULTILINE)
    assert re.search(r"^tensorrt_llm +no +\S", output, re.MULTILINE)


def test_the_demo_checkpoint_is_within_its_size() -> None:
    assert sum(path.stat().st_size for path in DEMO_CHECKPOINT.iterdir()) <= 8_000_000


def test_the_demo_needs_no_torch() -> None:
    pins = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    server_extra = pins.split("server = [")[1].split("]")[0]
    assert "torch" not in server_extra
    assert "torch" not in pins.split("dev = [")[1].split("]")[0]


def test_an_unsupported_python_is_refused(tmp_path: Path) -> None:
    code = (
        f"import sys, runpy; sys.path.insert(0, {str(BUILD)!r});"
        "sys.version_info = (3, 9, 0, 'final', 0);"
        f"sys.argv = ['setup', '--venv', {str(tmp_path / 'venv')!r}];"
        f"runpy.run_path({str(BUILD / 'setup_environment.py')!r}, run_name='__main__')"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 1
    assert "Python must be one of 3.10, 3.11, 3.12, not 3.9" in result.stderr
    assert not (tmp_path / "venv").exists()


def test_a_repository_that_leaves_the_checkout(tmp_path: Path) -> None:
    (make,) = selected("make repository PROFILE=demo")
    (check,) = selected("assemble_repository.py --check")
    output = run(make, free_ports(gateway=True))
    assert "step 7 of 7: verify" in output
    assert "is whole" in run(
        check.replace(".venv/bin/python", sys.executable), free_ports(gateway=True)
    )
    (serve,) = selected("serve.py --model-repository")
    repository = ROOT / serve.split()[-1]
    with (
        ServerProcess(repository, free_ports(), tmp_path / "log") as server,
        Client(server.ports.url("grpc")) as client,
    ):
        assert "Paris" in client.generate("The capital of France is", max_tokens=8).text


def test_the_way_on_blackwell_takes_at_most_five_commands(served: Ports) -> None:
    """The commands that need no GPU are run: the last two ask the server that the third starts."""
    assert len(BLACKWELL) <= 5
    build, make, serve, wait, ask = BLACKWELL
    assert build.startswith("docker build -f build/Dockerfile ")
    profile = make.split("--profile ")[1].split()[0]
    assert load_profile(profile).runtime == "tensorrt_llm"
    image = (BUILD / "Dockerfile").read_text(encoding="utf-8").split("BASE=")[1].split()[0]
    assert image == IMAGE
    assert image in README
    assert "llama:/models" in make
    assert "llama:/models" in serve
    run(wait, served)
    assert '"text_output"' in run(ask, served)


def test_make_loadtest(served: Ports, tmp_path: Path) -> None:
    """For a few seconds. The exit code may be 3: the machine may be too slow for a valid run."""
    (command,) = selected("make loadtest")
    output = tmp_path / "run"
    flags = f' --output {output} --tokenizer {DEMO_CHECKPOINT / "tokenizer.json"}"'
    command = command.replace("60s", "5s").rstrip('"') + flags
    result = subprocess.run(
        ["bash", "-c", f"{command} GRPC_PORT={served.grpc} METRICS_PORT={served.metrics}"],
        cwd=ROOT,
        env={**os.environ, "VENV": sys.prefix},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert "ttft" in result.stdout, result.stdout + result.stderr
    assert {path.name for path in output.iterdir()} >= {"report.html", "summary.json"}


# What each command of the command line prints, among other things.
PRINTED = {
    "generate": "Paris",
    "chat": "Paris",
    "health": "ready",
    "models": "ensemble",
    "metrics": "active requests",
    "bench": '"errors": {}',
}


@pytest.mark.parametrize("command", selected("llama-fp4 "))
def test_command_line(served: Ports, command: str) -> None:
    output = run(command.replace(".venv", sys.prefix), served)
    if "--choice" in command:
        assert output in ("good\n", "bad\n")
        return
    name = command.split("llama-fp4 ")[1].split()[0]
    assert PRINTED[name] in output
