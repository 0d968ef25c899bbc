"""`llama-fp4 chat`, as a session on a pseudo-terminal and as a script, on the real server.

The replay engine repeats its whole prompt, which is the conversation that the server got.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from llama_fp4 import Client, SamplingParams
from serving.child_server import ServerProcess

from tests.support.cli_calls import CTRL_C, CTRL_D, Terminal, ask, history, json_lines, terminal
from tests.support.processes import eventually, figure, wait_until_the_engine_rests

Saved = list[dict[str, str]]


@pytest.fixture
def session(narrow_server: ServerProcess, tmp_path: Path) -> Iterator[Terminal]:
    """A session at its first prompt, with its own history file."""
    url = narrow_server.ports.url("grpc")
    more = {"NO_COLOR": "1", "XDG_STATE_HOME": str(tmp_path / "state"), "TERM": "dumb"}
    with terminal("chat", "--url", url, "--max-tokens", "4", **more) as shell:
        shell.read_until("Ctrl-D ends\r\n> ")
        yield shell


def saved(session: Terminal, path: Path) -> Saved:
    session.line(f"/save {path}")
    session.read_until("> ")
    found: Saved = json.loads(path.read_text(encoding="utf-8"))
    return found


def test_ctrl_c_cancels_the_answer_but_not_the_session(
    session: Terminal, narrow_server: ServerProcess, tmp_path: Path
) -> None:
    session.line("/params max_tokens 1500")
    session.read_until("> ")
    session.line("My question")
    shown = session.read_until("Knowledge Date").rpartition("My question\r\n")[2]
    session.type(CTRL_C)
    shown += session.read_until("[cancelled; the conversation keeps what is shown]")
    session.read_until("> ")
    wait_until_the_engine_rests(narrow_server)
    first, second = saved(session, tmp_path / "saved.json")
    assert first == {"role": "user", "content": "My question"}
    assert second["role"] == "assistant"
    assert shown.partition("^C")[0].replace("\r\n", "\n").startswith(second["content"][:40])
    assert second["content"] in shown.replace("\r\n", "\n").replace("^C", "")
    # The engine has one place: the next message is answered, and the server got what was kept.
    session.line("/params max_tokens 200")
    session.read_until("> ")
    session.line("Next one")
    reply = session.read_until("\r\n[the answer ended at max_tokens")
    assert "My question" in reply
    assert second["content"] in reply.replace("\r\n", "\n")
    session.read_until("> ")
    session.line("/quit")
    assert session.end() == 0


def test_ctrl_c_before_any_text_drops_the_message(
    session: Terminal, narrow_server: ServerProcess, tmp_path: Path
) -> None:
    with Client(narrow_server.ports.url("grpc")) as client:
        first = client.stream("Hello", max_tokens=1500)
        next(first)  # it has the engine's one place
        session.line("My question")
        session.read_until("My question\r\n")
        # The terminal echoes a line before the command has read it.
        waiting = "llama_fp4_queued_requests"
        eventually(lambda: figure(narrow_server, waiting) == 1, "the message waits for the engine")
        session.type(CTRL_C)
        session.read_until("[cancelled; nothing was answered, so the message is dropped too]")
        session.read_until("> ")
        first.close()
    assert saved(session, tmp_path / "saved.json") == []
    wait_until_the_engine_rests(narrow_server)


def test_an_error_does_not_end_the_session(session: Terminal, tmp_path: Path) -> None:
    session.line("/params max_tokens 100000")
    session.read_until("> ")
    session.line("Too long")
    session.read_until("error: the prompt of ")
    session.read_until("> ")
    session.line("/params top_p 7")
    session.read_until("error: top_p must be")
    session.read_until("> ")
    session.line("/nope")
    session.read_until("error: the command must be one of")
    session.read_until("> ")
    assert saved(session, tmp_path / "saved.json") == []
    session.line(f"/save {tmp_path / 'saved.json'}")
    session.read_until("exists, and must be a new file")
    session.read_until("> ")
    session.type(CTRL_D)
    assert session.end() == 0


def test_ctrl_c_at_the_prompt(session: Terminal) -> None:
    session.type("half a mess")
    session.read_until("half a mess")
    session.type(CTRL_C)
    session.read_until("[Ctrl-D or /quit ends]")
    session.read_until("> ")
    session.type(CTRL_D)
    assert session.end() == 0


def test_lines_blocks_and_the_history_file(session: Terminal, tmp_path: Path) -> None:
    session.line("one\\")
    session.read_until("... ")
    session.line("two")
    session.read_until("[the answer ended")
    session.read_until("> ")
    session.line('"""')
    session.read_until("... ")
    session.line("/three")
    session.read_until("... ")
    session.line('four"""')
    session.read_until("[the answer ended")
    session.read_until("> ")
    messages = saved(session, tmp_path / "saved.json")
    asked = [m["content"] for m in messages if m["role"] == "user"]
    assert asked == ["one\ntwo", "/three\nfour"]
    session.type(CTRL_D)
    assert session.end() == 0
    state = tmp_path / "state"
    assert history(state)[:3] == ["one\\", "two", '"""']
    assert (state / "llama-fp4" / "chat_history").stat().st_mode & 0o777 == 0o600


def test_the_next_session_has_the_history(narrow_server: ServerProcess, tmp_path: Path) -> None:
    more = {"NO_COLOR": "1", "XDG_STATE_HOME": str(tmp_path), "TERM": "dumb"}
    for command in ("/params", "/params "):
        with terminal("chat", "--url", narrow_server.ports.url("grpc"), **more) as shell:
            shell.read_until("> ")
            shell.line(command)
            shell.read_until("max_tokens as many as the context has room for\r\n> ")
            shell.type(CTRL_D)
            assert shell.end() == 0
    assert history(tmp_path) == ["/params", "/params "]


def test_a_script(demo_server: ServerProcess, demo_client: Client, tmp_path: Path) -> None:
    """Each line is a message; the client gets the same answers for the same messages."""
    params = SamplingParams(max_tokens=8, temperature=0.0)
    path = tmp_path / "saved.json"
    script = f"What is a fox?\n\nAnd\\\na dog?\n/save {path}\n"
    arguments = ("chat", "--max-tokens", "8", "--temperature", "0", "--system", "Be brief.")
    found = ask(demo_server, *arguments, stdin=script)
    assert (found.returncode, found.stderr) == (0, "")
    messages = [{"role": "system", "content": "Be brief."}]
    for question in ("What is a fox?", "And\na dog?"):
        messages.append({"role": "user", "content": question})
        reply = demo_client.generate(messages, params).text
        messages.append({"role": "assistant", "content": reply})
    assert json.loads(path.read_text(encoding="utf-8")) == messages
    assert found.stdout == "".join(
        f"{m['content']}\n" for m in messages if m["role"] == "assistant"
    )
    whole = json_lines(
        ask(demo_server, *arguments, "--json", stdin=script.split("/save")[0]).stdout
    )
    assert [answer["text"] for answer in whole] == [
        m["content"] for m in messages if m["role"] == "assistant"
    ]


def test_system_reset_and_params_in_a_script(replay_server: ServerProcess) -> None:
    script = (
        "/system Be a fox.\nHello\n/system\n/reset\n/params temperature=0.5\n/params stop_words a\n"
        "/params\n/params stop_words -\n/params temperature -\n/params max_tokens -\n"
        "/params\n/quit\nnever\n"
    )
    found = ask(replay_server, "chat", "--max-tokens", "60", stdin=script)
    assert (found.returncode, found.stderr) == (0, "")
    reply, _, rest = found.stdout.rpartition("\nBe a fox.\n")
    assert "Be a fox." in reply
    shown = "max_tokens 60\ntemperature 0.5\nstop_words a\n"
    assert rest == f"{shown}max_tokens as many as the context has room for\n"


@pytest.mark.parametrize(
    ("script", "code", "sentence"),
    [
        ("/nope\nHello\n", 2, "not '/nope'"),
        ("/params n 2\n", 2, "generate of tensorrt_llm_bls"),
        ("/params nope 2\n", 2, "the option must be one of max_tokens"),
        ('"""\nno end\n', 2, "the block must end with"),
        ("/params max_tokens 1000000\nHello\n", 2, "and max_tokens 1000000 make"),
        ("/params top_k x\n", 2, "top_k must be an integer of at least 0, not 'x'"),
        ("/save /nowhere/x\n", 2, "/nowhere/x cannot be written"),
    ],
)
def test_a_script_ends_with_its_first_error(
    replay_server: ServerProcess, script: str, code: int, sentence: str
) -> None:
    found = ask(replay_server, "chat", stdin=script)
    assert (found.returncode, found.stdout, found.stderr.count("\n")) == (code, "", 1)
    assert sentence in found.stderr


# --- banner, pace, length and /retry ---


@pytest.fixture
def demo_session(demo_server: ServerProcess, tmp_path: Path) -> Iterator[Terminal]:
    """A session with a model that ends its answers, 50 columns wide."""
    metrics = f"http://{demo_server.ports.url('metrics')}/metrics"
    options = ("chat", "--url", demo_server.ports.url("grpc"), "--metrics-url", metrics)
    more = {"NO_COLOR": "1", "XDG_STATE_HOME": str(tmp_path / "state"), "TERM": "dumb"}
    with terminal(*options, columns="50", **more) as shell:
        yield shell


def test_the_banner_names_model_runtime_and_server(
    demo_session: Terminal, demo_server: ServerProcess
) -> None:
    banner = " ".join(demo_session.read_until("> ").split())
    url = demo_server.ports.url("grpc")
    assert banner.startswith(f"checkpoint, openvino runtime, triton 2.51.0 at {url} /help lists")


def test_the_banner_without_metrics_or_server(replay_server: ServerProcess, tmp_path: Path) -> None:
    nobody = "http://127.0.0.1:9/metrics"
    more = {"NO_COLOR": "1", "XDG_STATE_HOME": str(tmp_path), "TERM": "dumb"}
    url = replay_server.ports.url("grpc")
    with terminal("chat", "--url", url, "--metrics-url", nobody, **more) as shell:
        assert f"model ensemble, triton 2.51.0 at {url}" in shell.read_until("> ")
    with terminal("chat", "--url", "127.0.0.1:9", **more) as shell:
        assert "error: no connection to 127.0.0.1:9" in shell.read_until("Ctrl-D ends\r\n> ")


STORY = "Tell me a story about a robot called Tom."


def test_a_long_answer_is_complete_and_wrapped(
    demo_session: Terminal, demo_client: Client, tmp_path: Path
) -> None:
    """It has more than 128 tokens; the conversation keeps it without the terminal's newlines."""
    whole = demo_client.chat([{"role": "user", "content": STORY}], max_tokens=1000)
    assert whole.finish_reason == "stop"
    assert whole.num_output_tokens > 128
    demo_session.read_until("> ")
    demo_session.line(STORY)
    demo_session.read_until("Tom.\r\n")
    told = demo_session.read_until("\r\n[").removesuffix("\r\n[").split("\r\n")
    assert " ".join(told) == whole.text
    assert all(len(line) < 50 for line in told)
    pace = " ".join(demo_session.read_until("]\r\n").split())
    assert pace.startswith(f"{whole.num_output_tokens} tokens, ")
    assert " tokens/s, the first" in pace
    demo_session.read_until("> ")
    assert saved(demo_session, tmp_path / "saved.json")[1]["content"] == whole.text


def test_retry_replaces_the_last_answer(demo_session: Terminal, tmp_path: Path) -> None:
    demo_session.read_until("> ")
    demo_session.line("/retry")
    demo_session.read_until("error: /retry must follow a message")
    demo_session.read_until("> ")
    for question in ("What is a fox?", "What is the opposite of hot?"):
        demo_session.line(question)
        demo_session.read_until("]\r\n> ")
    before = saved(demo_session, tmp_path / "before.json")
    demo_session.line("/retry")
    demo_session.read_until("[greedy: the same answer again;")
    demo_session.read_until("]\r\n> ")
    assert saved(demo_session, tmp_path / "same.json") == before
    demo_session.line("/params temperature 0.7")
    demo_session.read_until("> ")
    demo_session.line("/params max_tokens 2")
    demo_session.read_until("> ")
    demo_session.line("/retry")
    assert "greedy" not in demo_session.read_until("[the answer ended at max_tokens")
    demo_session.read_until("> ")
    after = saved(demo_session, tmp_path / "after.json")
    assert (after[:3], len(after)) == (before[:3], 4)
    assert len(after[3]["content"]) < len(before[3]["content"])


def test_retry_sends_a_message_that_failed(session: Terminal, tmp_path: Path) -> None:
    session.line("/params max_tokens 100000")
    session.read_until("> ")
    session.line("Too long")
    session.read_until("error: the prompt of ")
    session.read_until("> ")
    session.line("/params max_tokens 4")
    session.read_until("> ")
    session.line("/retry")
    session.read_until("[the answer ended at max_tokens")
    session.read_until("> ")
    first, _ = saved(session, tmp_path / "saved.json")
    assert first["content"] == "Too long"


def test_an_answer_that_fills_the_context_says_so(
    replay_server: ServerProcess, tmp_path: Path
) -> None:
    more = {"NO_COLOR": "1", "XDG_STATE_HOME": str(tmp_path), "TERM": "dumb"}
    with terminal("chat", "--url", replay_server.ports.url("grpc"), **more) as shell:
        shell.read_until("> ")
        shell.line("Hello")
        shell.read_until("[the answer ended where the context did; /reset begins a new")


def test_a_script_has_no_banner_and_no_pace(demo_server: ServerProcess) -> None:
    found = ask(demo_server, "chat", stdin=f"{STORY}\n/retry\n")
    assert (found.returncode, found.stderr) == (0, "")
    first, second = found.stdout.splitlines()
    assert first == second
    assert len(first) > 300


def test_generate_chat_has_no_token_limit(demo_server: ServerProcess) -> None:
    whole = ask(demo_server, "chat", stdin=f"{STORY}\n").stdout
    assert ask(demo_server, "generate", "--chat", STORY).stdout == whole
