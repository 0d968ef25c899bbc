"""`llama-fp4 chat`, as a session on a pseudo-terminal and as a script, on the real server.

The replay engine says its whole prompt again: the conversation that the server got is in it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_calls import CTRL_C, CTRL_D, Terminal, ask, history, json_lines, terminal
from llama_fp4 import Client, SamplingParams
from processes import eventually, figure, wait_until_the_engine_rests
from server_process import ServerProcess

Saved = list[dict[str, str]]


@pytest.fixture
def session(narrow_server: ServerProcess, tmp_path: Path) -> Iterator[Terminal]:
    """At its first prompt, with a history file of its own."""
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


def test_ctrl_c_cancels_the_answer_and_not_the_session(
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


def test_an_error_ends_no_session(session: Terminal, tmp_path: Path) -> None:
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


def test_a_second_session_has_the_first_ones_history(
    narrow_server: ServerProcess, tmp_path: Path
) -> None:
    more = {"NO_COLOR": "1", "XDG_STATE_HOME": str(tmp_path), "TERM": "dumb"}
    for command in ("/params", "/params "):
        with terminal("chat", "--url", narrow_server.ports.url("grpc"), **more) as shell:
            shell.read_until("> ")
            shell.line(command)
            shell.read_until("max_tokens 128\r\n> ")
            shell.type(CTRL_D)
            assert shell.end() == 0
    assert history(tmp_path) == ["/params", "/params "]


def test_a_script(demo_server: ServerProcess, demo_client: Client, tmp_path: Path) -> None:
    """A message a line; the conversation is what the client sends for the same messages."""
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
        "/params\n/params stop_words -\n/params temperature -\n/params\n/quit\nnever\n"
    )
    found = ask(replay_server, "chat", "--max-tokens", "60", stdin=script)
    assert (found.returncode, found.stderr) == (0, "")
    reply, _, rest = found.stdout.rpartition("\nBe a fox.\n")
    assert "Be a fox." in reply
    assert rest == "max_tokens 60\ntemperature 0.5\nstop_words a\nmax_tokens 60\n"


@pytest.mark.parametrize(
    ("script", "code", "sentence"),
    [
        ("/nope\nHello\n", 2, "not '/nope'"),
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
