"""The unloaded texts: asked for together, for a bounded time, and kept for one running server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import pytest
from command_line.options import RunOptions
from sending import unloaded
from sending.messages import Unloaded
from sending.request import Clock, LoadRequest
from sending.sdk import Client
from sending.source import LoadSource
from sending.unloaded import AT_ONCE, UnloadedCache, server_identity, unloaded_texts
from serving.child_server import ServerProcess
from traffic.faults import Journey
from traffic.workloads import Conversation, Turn

from tests.support.paths import DEMO_CHECKPOINT

TOKENIZER = str(DEMO_CHECKPOINT / "tokenizer.json")
Answer = Callable[[Conversation], Awaitable[list[str]]]


def asked(
    monkeypatch: pytest.MonkeyPatch,
    answer: Answer,
    cache: UnloadedCache,
    most_s: float = 60.0,
    **options: Any,
) -> Unloaded:
    """With `answer` in the server's place."""
    monkeypatch.setattr(unloaded, "_texts", lambda conversation, client: answer(conversation))
    source = LoadSource(RunOptions(tokenizer=TOKENIZER, distinct_prompts=20, **options))
    asking = unloaded_texts(source.mix, cast(Client, None), lambda _: None, cache, most_s)
    return asyncio.run(asking)


def key_of(conversation: Conversation) -> list[str]:
    return [turn.key for turn in conversation.turns]


def test_few_requests_run_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    running: list[int] = [0]

    async def answer(conversation: Conversation) -> list[str]:
        running.append(running[-1] + 1)
        await asyncio.sleep(0)
        running.append(running[-1] - 1)
        return key_of(conversation)

    found = asked(monkeypatch, answer, UnloadedCache(""))
    assert max(running) == AT_ONCE
    assert found == Unloaded({str(number): str(number) for number in range(20)})


def test_missing_unloaded_texts_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    async def answer(conversation: Conversation) -> list[str]:
        if int(conversation.turns[0].key) >= 5:
            await asyncio.Event().wait()  # forever
        return key_of(conversation)

    found = asked(monkeypatch, answer, UnloadedCache(""), most_s=0.2)
    assert set(found.references) == {"0", "1", "2", "3", "4"}
    assert "5 of 20 prompts were answered within 0 s before the load" in found.note


def test_the_first_error_ends_the_preparation(monkeypatch: pytest.MonkeyPatch) -> None:
    async def answer(conversation: Conversation) -> list[str]:
        if conversation.turns[0].key == "9":
            raise ValueError("prompt 9 has no answer")
        if conversation.turns[0].key == "8":
            await asyncio.Event().wait()  # forever
        return key_of(conversation)

    with pytest.raises(ValueError, match="prompt 9 has no answer"):
        asked(monkeypatch, answer, UnloadedCache(""))


def counted(calls: list[str], text: str = "") -> Answer:
    async def answer(conversation: Conversation) -> list[str]:
        calls.append(conversation.turns[0].key)
        return [text + turn.key for turn in conversation.turns]

    return answer


@pytest.mark.parametrize("workload", ["32/4", "chat"])
def test_unloaded_texts_are_asked_for_once_per_server(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, workload: str
) -> None:
    path, calls = tmp_path / "unloaded.json", list[str]()
    first = asked(monkeypatch, counted(calls), UnloadedCache("one", path), workload=workload)
    assert len(calls) == 20
    again = asked(monkeypatch, counted(calls), UnloadedCache("one", path), workload=workload)
    assert again == first
    assert len(calls) == 21, "one is asked anew, to see that the server is the same"
    asked(monkeypatch, counted(calls), UnloadedCache("other", path), workload=workload)
    assert len(calls) == 41


def test_changed_answers_are_asked_for_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path, calls = tmp_path / "unloaded.json", list[str]()
    asked(monkeypatch, counted(calls), UnloadedCache("one", path))
    found = asked(monkeypatch, counted(calls, "new "), UnloadedCache("one", path))
    assert set(found.references.values()) == {f"new {number}" for number in range(20)}
    found = asked(monkeypatch, counted(calls, "new "), UnloadedCache("one", path))
    assert set(found.references.values()) == {f"new {number}" for number in range(20)}


@pytest.mark.parametrize(
    "changed",
    [{"workload": "32/5"}, {"sampling": '{"top_k": 1}'}, {"seed": 1}, {"workload": "chat"}],
)
def test_another_request_has_another_text(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, changed: dict[str, Any]
) -> None:
    path, calls = tmp_path / "unloaded.json", list[str]()
    asked(monkeypatch, counted(calls), UnloadedCache("one", path), workload="32/4")
    asked(monkeypatch, counted(calls), UnloadedCache("one", path), **{"workload": "32/4"} | changed)
    assert len(calls) == 40


def test_a_cut_file_is_ignored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path, calls = tmp_path / "unloaded.json", list[str]()
    for text in ("", '{"server": "one", "te', '{"server": "one", "texts": [1]}', "[]"):
        path.write_text(text, encoding="utf-8")
        calls.clear()
        assert asked(monkeypatch, counted(calls), UnloadedCache("one", path)).note == ""
        assert len(calls) == 20


def test_a_server_is_identified_by_its_engine_and_start(replay_server: ServerProcess) -> None:
    ports = replay_server.ports
    options = RunOptions(url=ports.url("grpc"), metrics_url=ports.url("metrics"))
    identity = server_identity(options)
    assert 'runtime="replay"' in identity
    assert "checkpoint_sha256=" in identity
    assert float(identity.split()[-1]) > 1.7e9, "the moment of its start"
    assert server_identity(options) == identity
    assert server_identity(RunOptions(metrics_url="127.0.0.1:1")) == ""


def test_a_long_refusal_is_kept_whole() -> None:
    """The client names every option that there is, and then the wrong one."""
    turn = Turn(key="0", prompt="Hi", messages=(), max_tokens=1, options={"nope": 1})
    request = LoadRequest("0", turn, Journey(), 0.0)
    asyncio.run(request.perform(Client("127.0.0.1:1"), Clock(0.0), []))
    assert request.error.endswith("not 'nope'")
