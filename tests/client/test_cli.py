"""The command line without a server: help, wrong usage, what is never printed."""

from __future__ import annotations

import dataclasses
import json
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from llama_fp4 import SamplingParams
from llama_fp4.cli.bench import percentile
from llama_fp4.cli.chat import Conversation
from llama_fp4.cli.inspect_server import parse, rows
from llama_fp4.cli.main import COMMANDS
from llama_fp4.cli.options import OPTIONS
from llama_fp4.transports.choose import metrics_url
from serving.child_server import free_ports

from tests.support.cli_calls import call, environment

SECRET = "s3cr3t"


@pytest.mark.parametrize("command", ["", *COMMANDS])
@pytest.mark.parametrize("columns", ["80", "200"])
def test_help_fits_80_columns(command: str, columns: str) -> None:
    found = call(*([command] if command else []), "--help", COLUMNS=columns)
    assert (found.returncode, found.stderr) == (0, "")
    assert max(map(len, found.stdout.splitlines())) < 80


@pytest.mark.parametrize("command", ["generate", "chat", "bench"])
def test_every_field_is_an_option(command: str) -> None:
    text = call(command, "--help").stdout
    for field in dataclasses.fields(SamplingParams):
        option = OPTIONS.get(field.name, "--" + field.name.replace("_", "-"))
        assert f"  {option}" in text
    assert "number from -2 to 2" in text  # presence_penalty's range


def test_help_imports_no_protocol() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "llama_fp4", "generate", "--help"]
    found = subprocess.run(command, capture_output=True, text=True, env=environment(), check=True)
    lines = found.stderr.splitlines()
    names = {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}
    assert "llama_fp4" in names
    assert not names & {"grpc", "numpy", "tritonclient", "google", "readline"}


USAGE = {
    "no command": ([], ""),
    "unknown command": (["nope"], "'nope'"),
    "unknown option": (["generate", "x", "--nope"], "--nope"),
    "no quotes": (["generate", "x", "y"], "a prompt with blanks needs quotes"),
    "abbreviated": (["generate", "x", "--max", "3"], "--max"),
    "several answers": (["generate", "x", "--n", "2"], "generate of tensorrt_llm_bls"),
    "no integer": (
        ["generate", "x", "--top-k", "1.5"],
        "top_k must be an integer of at least 0, not '1.5'",
    ),
    "out of range": (
        ["generate", "x", "--max-tokens", "0"],
        "max_tokens must be an integer of at least 1, not 0",
    ),
    "not finite": (
        ["generate", "x", "--temperature", "nan"],
        "temperature must be a finite number from 0 to 100, not nan",
    ),
    "guide type": (["generate", "x", "--guided-decoding-guide-type", "xml"], "'xml'"),
    "choice and type": (
        ["generate", "x", "--choice", "a", "--guided-decoding-guide-type", "regex"],
        "guided_decoding_guide_type must be choice where guided_decoding_guide is a list",
    ),
    "choice and guide": (
        ["generate", "x", "--guided-decoding-guide", "a", "--choice", "b"],
        "--choice is a guide of its own, without --guided-decoding-guide",
    ),
    "type and choice": (
        ["generate", "x", "--guided-decoding-guide-type", "json", "--choice", "b"],
        "--choice is a guide of the type choice, without another type",
    ),
    "tools": (["generate", "x", "--tools", "{"], "tools must be JSON, not '{'"),
    "no file": (["generate", "x", "--tools", "@/nowhere"], "@/nowhere"),
    "weights": (["generate", "x", "--embedding-bias-words", "a"], "embedding_bias_weights"),
    "timeout": (["generate", "x", "--timeout", "0"], "'0'"),
    "url": (["generate", "x", "--url", "ftp://h:1"], "'ftp://h:1'"),
    "key alone": (["generate", "x", "--tls-key", "k"], "cert and key must be given together"),
    "ca": (["generate", "x", "--tls-ca", "/nowhere"], "/nowhere"),
    "empty": (["generate", ""], "the prompt must not be empty"),
    "no bytes": (["generate", b"\xff".decode(errors="surrogateescape")], "must be UTF-8"),
    "requests": (["bench", "--requests", "0"], "'0'"),
    "metrics": (["metrics", "--metrics-url", "nowhere"], "'nowhere'"),
}


@pytest.mark.parametrize("case", USAGE)
def test_wrong_usage_is_one_sentence_and_exit_code_2(case: str) -> None:
    arguments, sentence = USAGE[case]
    found = call(*arguments)
    assert found.returncode == 2
    if arguments:
        assert found.stdout == ""
        assert found.stderr.startswith("error: ")
        assert found.stderr.count("\n") == 1
        assert sentence in found.stderr


def test_errors_as_json() -> None:
    found = call("generate", "x", "--json", "--top-p", "2")
    error = json.loads(found.stderr)["error"]
    assert (error["class"], error["code"]) == ("InvalidRequest", "INVALID_ARGUMENT")
    assert "top_p must be a finite number of at most 1, not 2.0" in error["message"]


def test_standard_input_that_is_not_utf_8() -> None:
    found = call("generate", stdin=b"\xff\xfe")
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr == "error: standard input must be UTF-8\n"


@pytest.mark.parametrize(
    "command", [["generate", "x"], ["health"], ["models"], ["metrics"], ["bench"]]
)
@pytest.mark.parametrize("wire", ["", "http://"])
def test_nobody_listens(command: list[str], wire: str) -> None:
    found = call(*command, "--url", wire + free_ports().url("grpc"))
    assert (found.returncode, found.stdout, found.stderr.count("\n")) == (1, "", 1)


@pytest.mark.parametrize(
    "command", [["generate", "x"], ["health"], ["models"], ["metrics"], ["bench"]]
)
@pytest.mark.parametrize("wire", ["", "http://"])
def test_nobody_answers(command: list[str], wire: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        more = ["--metrics-url", address] if command == ["metrics"] else []
        found = call(*command, *more, "--url", wire + address, "--timeout", "0.5")
    assert (found.returncode, found.stdout, found.stderr.count("\n")) == (3, "", 1)


@pytest.mark.parametrize(
    "header",
    [
        SECRET,
        f"Authorization: {SECRET}==",
        f"a b={SECRET}",
        f"name={SECRET}\n",
        f"name={SECRET}\u00e9",
    ],
)
@pytest.mark.parametrize("form", [[], ["--json"]])
def test_a_wrong_header_is_not_printed(header: str, form: list[str]) -> None:
    found = call("generate", "x", "--header", header, *form)
    assert found.returncode == 2
    assert "--header" in found.stderr
    assert SECRET not in found.stdout + found.stderr


def test_a_mistyped_option_is_named_without_its_value() -> None:
    for value in ((f"--heaader=a={SECRET}",), ("--heaader", f"a={SECRET}")):
        found = call("health", *value)
        assert found.returncode == 2
        assert "--heaader is not an option" in found.stderr
        assert SECRET not in found.stderr


def test_a_header_is_sent_and_not_printed() -> None:
    got: list[str | None] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            got.append(self.headers["x-key"])
            self.send_response(403)
            self.end_headers()
            self.wfile.write(b'{"error": "no"}')

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        found = call("generate", "x", "--url", url, "--header", f"X-Key={SECRET}=1", "--json")
        server.shutdown()
    assert set(got) == {f"{SECRET}=1"}
    assert found.returncode == 1
    assert SECRET not in found.stdout + found.stderr


def test_percentiles_by_nearest_rank() -> None:
    """The example of Wikipedia's article "Percentile"."""
    values = [15.0, 50, 20, 40, 35]
    assert [percentile(values, p) for p in (5, 30, 40, 50, 100)] == [15, 20, 20, 35, 50]


def test_a_turn_without_an_answer_is_dropped() -> None:
    talk = Conversation("Be brief.")
    assert not talk.keep("Hello", "")
    assert talk.keep("Hi", "Yes?")
    assert [m["role"] for m in talk.asked("And?")] == ["system", "user", "assistant", "user"]
    talk.reset()
    assert talk.messages == [{"role": "system", "content": "Be brief."}]


def test_the_metrics_of_an_engine() -> None:
    """Prometheus' text format 0.0.4: comments, escapes in labels, optional timestamps."""
    text = """\
# HELP llama_fp4_queue_seconds Sum of seconds
llama_fp4_engine_info{model="a \\"b\\", c",runtime="replay"} 1
llama_fp4_sequences 4
llama_fp4_queue_seconds 0.5
llama_fp4_active_requests 3 1700000000
llama_fp4_odd NaN
"""
    samples = list(parse(text))
    assert samples[0].labels == {"model": 'a \\"b\\", c', "runtime": "replay"}
    table = dict(rows(samples, []))
    assert table["active requests"] == "3"
    assert table["mean queue ms"] == "125.0"
    assert "odd" not in table


@pytest.mark.parametrize(
    ("url", "metrics"),
    [
        ("h:8001", "http://h:8002/metrics"),
        ("h:9001", "http://h:9002/metrics"),
        ("grpcs://h:9001", "http://h:9002/metrics"),
        ("http://h:9000/", "http://h:9002/metrics"),
        ("https://[::1]:9000", "http://[::1]:9002/metrics"),
        ("h:65535", "http://h:8002/metrics"),
    ],
)
def test_the_default_metrics_url(url: str, metrics: str) -> None:
    assert metrics_url(url) == metrics


def test_metrics_that_are_not_found_name_the_option() -> None:
    """Nobody listens on port 10."""
    found = call("metrics", "--url", "127.0.0.1:9")
    assert (found.returncode, found.stdout) == (1, "")
    assert "no metrics from 127.0.0.1:10: Connection refused; name" in found.stderr
    assert "--metrics-url" in found.stderr
