"""`llama-fp4` against the real server: what it prints, its exit codes, and leaving."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from llama_fp4 import Client, Timeouts, TotalTimeout
from serving.child_server import ServerProcess, free_ports

from tests.support.cli_calls import COMMAND, answer, ask, call, environment, json_lines, terminal
from tests.support.processes import PATIENCE_S, eventually, wait_until_the_engine_rests
from tests.support.tls_servers import certificates
from tests.support.upstream_server import upstream_server

LONG = ("generate", "Hello", "--max-tokens", "1900")
TRITON = "2.51.0"  # nvidia-pytriton 0.7.0's


def begin(server: ServerProcess, *arguments: str, **more: Any) -> subprocess.Popen[str]:
    """A command that runs, its stdout and stderr in pipes."""
    return subprocess.Popen(
        [*COMMAND, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(LLAMA_FP4_URL=server.ports.url("grpc")),
        **more,
    )


@pytest.mark.parametrize("wire", ["grpc", "http"])
def test_generate(demo_server: ServerProcess, demo_client: Client, wire: str) -> None:
    prompt, options = "Once upon a time", ("--max-tokens", "20", "--temperature", "0")
    url = ("" if wire == "grpc" else "http://") + demo_server.ports.url(wire)
    expected = demo_client.generate(prompt, max_tokens=20, temperature=0.0)
    assert answer(demo_server, "generate", prompt, *options, "--url", url) == f"{expected.text}\n"
    for arguments in (("--no-stream",), ("-",), ()):
        stdin = "" if arguments == ("--no-stream",) else f"{prompt}\n"
        given = (prompt, *arguments) if not stdin else arguments
        found = answer(demo_server, "generate", *given, *options, "--url", url, stdin=stdin)
        assert found == f"{expected.text}\n"
    (whole,) = json_lines(answer(demo_server, "generate", prompt, *options, "--json", "--url", url))
    assert whole["text"] == expected.text
    assert whole["num_output_tokens"] == expected.num_output_tokens
    assert whole["finish_reason"] == expected.finish_reason
    streamed = ("generate", prompt, *options, "--json", "--stream", "--url", url)
    chunks = json_lines(answer(demo_server, *streamed))
    assert "".join(chunk["text"] for chunk in chunks) == expected.text
    assert [chunk["final"] for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert len(chunks) > 3


def test_generate_as_chat(demo_server: ServerProcess, demo_client: Client) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is a fox?"},
    ]
    expected = demo_client.generate(messages, max_tokens=12, temperature=0.0, stop_words=["q", "z"])
    options = ("--max-tokens", "12", "--temperature", "0", "--stop", "q", "--stop", "z")
    both = answer(demo_server, "generate", "What is a fox?", "--system", "Be brief.", *options)
    assert both == f"{expected.text}\n"
    alone = demo_client.generate(messages[1:], max_tokens=12, temperature=0.0)
    found = answer(demo_server, "generate", "What is a fox?", "--chat", *options[:4])
    assert found == f"{alone.text}\n"


def test_options_reach_the_server(replay_server: ServerProcess) -> None:
    """The replay engine repeats the prompt, which shows stop words; refusals show the rest."""
    text = answer(
        replay_server, "generate", "Hello there", "--stop", "nope", "--stop", "lo th",
        "--include-stop-str-in-output",
    )  # fmt: skip
    assert text == "Hello th\n"
    found = ask(replay_server, "generate", "Hello", "--max-tokens", "1000000")
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr.startswith("error: the prompt of 2 tokens and max_tokens 1000000 make")
    found = ask(replay_server, "generate", "Hello", "--model", "nope")
    assert (found.returncode, found.stderr.count("\n")) == (2, 1)


def test_the_url_option_overrides_the_variable(replay_server: ServerProcess) -> None:
    url = replay_server.ports.url("grpc")
    nowhere = free_ports().url("grpc")
    assert call("health", "--url", url, LLAMA_FP4_URL=nowhere).returncode == 0
    assert call("health", "--url", nowhere, LLAMA_FP4_URL=url).returncode == 1


def test_a_timeout_is_exit_code_3_after_what_came(narrow_server: ServerProcess) -> None:
    found = ask(narrow_server, *LONG, "--timeout", "1")
    assert found.returncode == 3
    assert found.stdout.startswith("Hello")
    assert found.stdout.endswith("\n")
    assert found.stderr == "error: the answer was not complete in 1 s\n"
    wait_until_the_engine_rests(narrow_server)


@pytest.mark.parametrize("form", [(), ("--no-stream",), ("--json", "--stream")])
def test_ctrl_c_is_exit_code_130_and_cancels_on_the_server(
    narrow_server: ServerProcess, form: tuple[str, ...]
) -> None:
    process = begin(narrow_server, *LONG, *form)
    assert process.stdout is not None
    if form == ("--no-stream",):
        # Nothing tells that it runs but the server, which answers nobody else meanwhile.
        with Client(narrow_server.ports.url("grpc")) as client:
            eventually(lambda: is_taken(client), "the request runs")
    else:
        assert process.stdout.read(5)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, errors) == (130, "")
    wait_until_the_engine_rests(narrow_server)


def is_taken(client: Client) -> bool:
    """Whether another request holds the engine's only slot."""
    try:
        client.generate("Hi", max_tokens=1, timeouts=Timeouts(total=1.0))
    except TotalTimeout:
        return True
    return False


def test_a_closed_pipe(narrow_server: ServerProcess) -> None:
    process = begin(narrow_server, *LONG)
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.read(5) == "Hello"
    process.stdout.close()
    assert process.wait(PATIENCE_S) == 141
    assert process.stderr.read() == ""
    process.stderr.close()
    wait_until_the_engine_rests(narrow_server)


@pytest.mark.parametrize("wire", ["grpc", "http"])
def test_health(replay_server: ServerProcess, wire: str) -> None:
    url = ("" if wire == "grpc" else "http://") + replay_server.ports.url(wire)
    (found,) = json_lines(call("health", "--json", "--url", url).stdout)
    assert found == {
        "server": "triton", "version": TRITON, "live": True, "ready": True,
        "model": "ensemble", "model_ready": True,
    }  # fmt: skip
    text = call("health", "--url", url).stdout
    assert text.splitlines()[0].split() == ["server", "triton", TRITON]
    missing = call("health", "--model", "nope", "--url", url)
    assert (missing.returncode, missing.stderr) == (1, "")
    assert missing.stdout.splitlines()[-1].split() == ["model", "nope", "ready", "no"]


def test_models(replay_server: ServerProcess) -> None:
    found = {
        model["name"]: model for model in json_lines(answer(replay_server, "models", "--json"))[0]
    }
    assert {name: model["contract"] for name, model in found.items()} == {
        "ensemble": "ours",
        "tensorrt_llm_bls": "ours",
        "preprocessing": None,
        "tensorrt_llm": None,
        "postprocessing": None,
    }
    assert {model["state"] for model in found.values()} == {"READY"}
    with Client(replay_server.ports.url("grpc")) as client:
        inputs = client.metadata().inputs
    assert found["ensemble"]["inputs"] == [
        {"name": t.name, "datatype": t.datatype, "shape": list(t.shape)} for t in inputs
    ]
    text = answer(replay_server, "models", "--inputs")
    row = next(line for line in text.splitlines() if line.startswith("ensemble "))
    assert row.split() == ["ensemble", "1", "READY", "ours", str(len(inputs))]
    assert max(map(len, text.splitlines())) < 80
    assert all(f"{tensor.name} {tensor.datatype}" in " ".join(text.split()) for tensor in inputs)


def metric_lines(address: str) -> list[str]:
    connection = http.client.HTTPConnection(address, timeout=PATIENCE_S)
    connection.request("GET", "/metrics")
    lines = connection.getresponse().read().decode().splitlines()
    connection.close()
    return lines


def ensemble_successes(lines: list[str]) -> float:
    counted = [line for line in lines if line.startswith("nv_inference_request_success{")]
    (value,) = [float(line.split()[-1]) for line in counted if 'model="ensemble"' in line]
    return value


def test_metrics(replay_server: ServerProcess, replay_client: Client) -> None:
    """Compared with the endpoint itself: every metric of the engine is shown."""
    replay_client.generate("Hello", max_tokens=2)
    address = replay_server.ports.url("metrics")
    before = metric_lines(address)
    families = {line.split()[2] for line in before if line.startswith("# TYPE llama_fp4_")}
    url = ("--metrics-url", f"http://{address}/metrics")
    (found,) = json_lines(answer(replay_server, "metrics", "--json", *url))
    assert families <= set(found)
    assert found["llama_fp4_engine_info"]["runtime"] == "replay"
    # Triton counts a request a moment after its last response.
    told = found["nv_inference_request_success"]
    assert ensemble_successes(before) <= told <= ensemble_successes(metric_lines(address))
    text = answer(replay_server, "metrics", *url)
    assert ["runtime", "replay"] in [line.split() for line in text.splitlines()]
    assert ask(replay_server, "metrics", "--metrics-url", f"{address}/nope").returncode == 1


def test_bench(replay_server: ServerProcess, replay_client: Client) -> None:
    options = ("--requests", "9", "--concurrency", "3", "--prompt", "Hello", "--max-tokens", "20")
    before = succeeded(replay_client)
    (found,) = json_lines(answer(replay_server, "bench", "--json", *options))
    assert (found["requests"], found["failed"], found["errors"]) == (9, 0, {})
    assert succeeded(replay_client) - before == 9
    expected = replay_client.generate("Hello", max_tokens=20)
    assert found["output_tokens"] == 9 * expected.num_output_tokens
    assert found["output_tokens_per_s"] * found["seconds"] == pytest.approx(found["output_tokens"])
    for name in ("ttft_s", "itl_s", "e2e_s"):
        spread = found[name]
        if name == "itl_s" and spread["p50"] is None:  # on a busy machine one chunk has all tokens
            continue
        assert 0 < spread["p50"] <= spread["p90"] <= spread["p99"]
    assert found["ttft_s"]["p50"] < found["e2e_s"]["p50"]
    text = answer(replay_server, "bench", *options)
    assert text.startswith("9 of 9 requests, 3 at once, ")
    assert max(map(len, text.splitlines())) < 80


def succeeded(client: Client) -> int:
    """The server's own count of answered requests."""
    return int(client.statistics()["model_stats"][0]["inference_stats"]["success"]["count"])


def test_bench_counts_failures_by_class(narrow_server: ServerProcess) -> None:
    options = ("--requests", "3", "--concurrency", "3", "--max-tokens", "1900", "--timeout", "1")
    found = ask(narrow_server, "bench", "--json", *options)
    assert (found.returncode, found.stderr) == (3, "")
    assert json.loads(found.stdout)["errors"] == {"TotalTimeout": 3}
    refused = ask(narrow_server, "bench", "--max-tokens", "1000000")
    assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (2, "", 1)
    wait_until_the_engine_rests(narrow_server)


def test_bench_shows_what_it_measured_before_ctrl_c(narrow_server: ServerProcess) -> None:
    url = narrow_server.ports.url("grpc")
    options = ("--requests", "500", "--concurrency", "2", "--max-tokens", "5")
    with terminal("bench", *options, "--url", url) as shell:
        shell.read_until("3 of 500 requests")
        shell.type("\x03")
        shell.read_until(" of 500 requests, 2 at once, ")
        shell.read_until("output tokens/s")
        assert shell.end() == 130
    wait_until_the_engine_rests(narrow_server)


def test_bold_only_on_a_terminal(replay_server: ServerProcess) -> None:
    url = replay_server.ports.url("grpc")
    with terminal("models", "--url", url) as shell:
        assert shell.end() == 0
        assert shell.seen.startswith("\x1b[1mmodel ")
    with terminal("models", "--url", url, NO_COLOR="1") as shell:
        assert shell.end() == 0
        assert "\x1b" not in shell.seen
    assert "\x1b" not in call("models", "--url", url).stdout


def test_an_answer_cannot_move_the_cursor(replay_server: ServerProcess) -> None:
    """The replay engine repeats the prompt's escapes; a pipe gets them, a terminal does not."""
    prompt = "ab\x1b[2Jcd\x07ef"
    options = ("generate", prompt, "--max-tokens", "60", "--url", replay_server.ports.url("grpc"))
    assert "\x1b[2J" in call(*options).stdout
    with terminal(*options, NO_COLOR="1") as shell:
        assert shell.end() == 0
        assert "cd" in shell.seen
        assert "\x1b" not in shell.seen
        assert "\x07" not in shell.seen


def test_mutual_tls(tmp_path: Path) -> None:
    certificates(tmp_path)
    more = [
        "--grpc-use-ssl=1",
        "--grpc-use-ssl-mutual=1",
        f"--grpc-server-cert={tmp_path / 'server.pem'}",
        f"--grpc-server-key={tmp_path / 'server.key'}",
        f"--grpc-root-cert={tmp_path / 'ca.pem'}",
    ]
    own = ("--tls-cert", str(tmp_path / "client.pem"), "--tls-key", str(tmp_path / "client.key"))
    with upstream_server(tmp_path, more) as ports:
        common = ("generate", "one two", "--max-tokens", "1", "--url", ports.url("grpc"))
        named = (*common, "--tls-name", "inside", *own)
        found = call(*named, "--tls-ca", str(tmp_path / "ca.pem"))
        assert (found.returncode, found.stdout, found.stderr) == (0, "one \n", "")
        found = call(*named, "--tls-ca", str(tmp_path / "other.pem"))
        assert (found.returncode, found.stdout, found.stderr.count("\n")) == (1, "", 1)
        models = call("models", *named[4:], "--json", "--tls-ca", str(tmp_path / "ca.pem"))
        contracts = {m["name"]: m["contract"] for m in json.loads(models.stdout)}
        assert contracts == {
            "ensemble": "upstream", "tensorrt_llm_bls": "upstream", "tensorrt_llm": "llmapi"
        }  # fmt: skip
