"""The whole ensemble through the real server, with vLLM in an engine process of another Python.

Run by `make test-vllm` in the server's environment; VLLM_PYTHON names the interpreter with vLLM.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import statistics
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from assemble_repository import assemble
from engine_config import load_engine_config
from engines.engine_json import write_description
from llama_fp4 import Client, LlamaError
from serving.child_server import ServerProcess

from tests.conftest import serving
from tests.support.golden import PROMPTS, without_end
from tests.support.processes import command_line, descendants, engine_of, eventually, is_alive
from tests.support.triton_calls import generate_tokens


@pytest.fixture(scope="module")
def server(
    vllm_engine_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    config = load_engine_config(vllm_engine_folder)
    python = os.path.abspath(os.environ["VLLM_PYTHON"])
    write_description(vllm_engine_folder, dataclasses.replace(config, engine_python=python))
    folder = tmp_path_factory.mktemp("vllm-server")
    assemble(vllm_engine_folder, folder / "model_repository")
    yield from serving(folder / "model_repository", folder)


@pytest.fixture
def client(server: ServerProcess) -> Iterator[Client]:
    with Client(server.ports.url("grpc")) as client:
        yield client


def ask(client: Client, prompt: dict[str, Any], **options: Any) -> str:
    question = prompt["messages"] if prompt["messages"] is not None else prompt["prompt"]
    chunks = list(client.stream(question, max_tokens=prompt["max_new_tokens"], **options))
    return "".join(chunk.text for chunk in chunks)


def test_golden_tokens_and_texts(server: ServerProcess, client: Client) -> None:
    for prompt in PROMPTS:
        tokens, reason = generate_tokens(server, prompt["prompt_ids"], prompt["max_new_tokens"])
        assert (tokens, reason) == (without_end(prompt["tokens"]), prompt["finish_reason"])
        assert ask(client, prompt) == prompt["text"]
    assert ask(client, PROMPTS[0], stream=False) == PROMPTS[0]["text"]


def test_many_at_once(server: ServerProcess) -> None:
    got: dict[int, str] = {}

    def run(lane: int) -> None:
        with Client(server.ports.url("grpc")) as own:
            for number in range(lane, len(PROMPTS), 8):
                got[number] = ask(own, PROMPTS[number])

    threads = [threading.Thread(target=run, args=(lane,)) for lane in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [got[number] for number in range(len(PROMPTS))] == [one["text"] for one in PROMPTS]


def test_seeds_stop_words_and_refusals(client: Client) -> None:
    story = [{"role": "user", "content": "Tell me a story about a bear called Rosa."}]
    hot: dict[str, Any] = {"temperature": 1.5, "max_tokens": 40}
    texts = [client.generate(story, seed=seed, **hot).text for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    plain = client.generate(story, max_tokens=40).text
    stop = plain[10:16]
    assert (
        client.generate(story, max_tokens=40, stop_words=[stop]).text == plain[: plain.index(stop)]
    )
    with pytest.raises(
        LlamaError, match="temperature is 3; with the vllm runtime it must be 0, or"
    ):
        client.generate(story, max_tokens=4, temperature=3.0)


def test_a_guide_holds(client: Client) -> None:
    for kind, guide, allowed in (
        ("regex", "(Paris|Rome), [0-9]{4}", None),
        ("ebnf_grammar", 'root ::= "yes" | "no"', ("yes", "no")),
        ("json_schema", '{"type": "boolean"}', ("true", "false")),
    ):
        text = client.generate(
            "The capital of Italy",
            max_tokens=60,
            guided_decoding_guide_type=kind,
            guided_decoding_guide=guide,
        ).text.strip()
        assert text in allowed if allowed else len(text.split(", ")[1]) == 4


def test_a_client_that_goes_away_frees_the_engine(server: ServerProcess) -> None:
    with Client(server.ports.url("grpc")) as own:
        stream = own.stream("Once upon a time", max_tokens=1500, ignore_eos=True)
        next(stream)
    with Client(server.ports.url("grpc")) as other:
        assert ask(other, PROMPTS[0]) == PROMPTS[0]["text"]


@pytest.mark.parametrize("victim", ["engine process", "EngineCore"])
def test_a_dead_process_is_reported_replaced_and_leaves_nothing_behind(
    server: ServerProcess, client: Client, victim: str
) -> None:
    engine = engine_of(server.pid)
    below = descendants(engine)
    core = next(pid for pid in below if "EngineCore" in command_line(pid))
    stream = client.stream("Once upon a time", max_tokens=1500, ignore_eos=True)
    next(stream)
    os.kill(engine if victim == "engine process" else core, signal.SIGKILL)
    with pytest.raises(LlamaError, match="engine process"):
        list(stream)
    eventually(lambda: not any(is_alive(pid) for pid in [engine, *below]), "nothing left behind")

    def works() -> bool:
        try:
            return bool(ask(client, PROMPTS[0]) == PROMPTS[0]["text"])
        except LlamaError:  # it is being started anew
            return False

    end = time.monotonic() + 150
    while not works():
        assert time.monotonic() < end, server.log()[-3000:]
        time.sleep(1)


def test_cost_through_the_server(server: ServerProcess, capsys: pytest.CaptureFixture[str]) -> None:
    """Printed for comparison with vLLM called directly; nothing is asserted of times."""
    first, each = [], []
    with Client(server.ports.url("grpc")) as own:
        for number in range(12):
            began = time.perf_counter()
            times = []
            prompt = f"Once upon a time {number}"
            for _ in own.stream(prompt, max_tokens=64, ignore_eos=True):
                times.append(time.perf_counter())
            first.append(times[0] - began)
            each.append((times[-1] - times[0]) / 63)
    with capsys.disabled():
        print(
            f"\nthrough the ensemble: first token {statistics.median(first) * 1e3:.1f} ms, "
            f"then {statistics.median(each) * 1e3:.2f} ms a token (medians of 12)"
        )
