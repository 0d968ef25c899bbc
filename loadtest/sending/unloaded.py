"""The greedy answers of an unloaded server, which answers under load must equal.

Before the load, a few prompts are asked at a time, for a bounded time. Answers to prompts that were
not reached are checked for everything but their text.

Digests of the texts are kept between runs, under the engine's description and the time of its load,
because another checkpoint, runtime, precision or version may write another text. A server without
such a description is asked every time.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import http.client
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from command_line.options import RunOptions
from figures.server_metrics import LINE
from figures.server_samples import fetch_metrics, metrics_url
from output.write_run import write_whole
from traffic.faults import Journey
from traffic.mix import WorkloadMix
from traffic.workloads import Conversation

from sending import sdk
from sending.check_answer import digest, is_greedy
from sending.messages import Unloaded
from sending.request import Clock, LoadRequest, history_with

AT_ONCE = 8
MOST_S = 60.0
PATH = Path(__file__).resolve().parents[2] / "build" / "out" / "loadtest" / "unloaded.json"
START, INFO = "llama_fp4_start_time_seconds", "llama_fp4_engine_info"


async def unloaded_texts(
    mix: WorkloadMix,
    client: sdk.Client,
    show: Callable[[str], None],
    cache: UnloadedCache,
    most_s: float = MOST_S,
) -> Unloaded:
    """Raises ValueError if a request fails. `show` gets each step."""
    found = Unloaded()
    asked = [each for each in mix.distinct_conversations() if _keys(each)]
    known = [each for each in asked if cache.get(each)]
    if known and await _texts(known[0], client) != cache.get(known[0]):
        cache.clear()  # it is another server, though it has the same description
        known = []
    for each in known:
        found.references |= dict(zip(_keys(each), cache.get(each), strict=True))
    there = {id(each) for each in known}
    left = [each for each in asked if id(each) not in there]
    done = len(known)

    def keep(conversation: Conversation, texts: list[str]) -> None:
        nonlocal done
        done += 1
        found.references |= dict(zip(_keys(conversation), texts, strict=True))
        cache.put(conversation, texts)
        show(f"unloaded texts: {done} of {len(asked)}, at most {most_s:.0f} s")

    await _ask(left, client, keep, most_s)
    cache.save()
    if done < len(asked):
        found.note = (
            f"{done} of {len(asked)} prompts were answered within {most_s:.0f} s before the load: "
            "no text of the others was compared"
        )
    return found


async def _ask(
    conversations: list[Conversation],
    client: sdk.Client,
    keep: Callable[[Conversation, list[str]], None],
    most_s: float,
) -> None:
    """Ask `AT_ONCE` at a time until all are answered or time is up; raises the first error."""
    left: Iterator[Conversation] = iter(conversations)

    async def ask() -> None:
        for conversation in left:
            keep(conversation, await _texts(conversation, client))

    asking = [asyncio.create_task(ask()) for _ in range(AT_ONCE)]
    try:
        ended, _ = await asyncio.wait(asking, timeout=most_s, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
    for task in ended:
        task.result()


async def _texts(conversation: Conversation, client: sdk.Client) -> list[str]:
    """Digests of the greedy turns' texts; each turn is sent with the answers before it."""
    digests = []
    clock = Clock(time.time())
    history: list[dict[str, str]] = []
    for turn in conversation.turns:
        if not is_greedy(turn.options):
            continue
        messages = history_with(history, turn, conversation.chat)
        request = LoadRequest(f"unloaded-{turn.key}", turn, Journey(), clock.now())
        await request.perform(client, clock, messages)
        if request.error_class:
            raise ValueError(
                f"before the load, prompt {turn.key} has no answer: "
                f"{request.error} ({request.error_class})"
            )
        digests.append(digest(request.answer.text))
        history = [*messages, {"role": "assistant", "content": request.answer.text}]
    return digests


def _keys(conversation: Conversation) -> list[str]:
    return [turn.key for turn in conversation.turns if is_greedy(turn.options)]


class UnloadedCache:
    """The digests of one server, identified by `server`; with "" nothing is kept."""

    def __init__(self, server: str, path: Path = PATH) -> None:
        self._server = server
        self._path = path
        self._texts = _read(path, server) if server else {}

    def get(self, conversation: Conversation) -> list[str]:
        """Digests of the conversation's greedy turns, in order; [] if unknown."""
        return self._texts.get(_key(conversation), [])

    def put(self, conversation: Conversation, digests: list[str]) -> None:
        """Keep the digests of all its greedy turns."""
        if self._server:
            self._texts[_key(conversation)] = digests

    def clear(self) -> None:
        """Forget all of them."""
        self._texts = {}

    def save(self) -> None:
        """Replace the file, whichever server or run wrote it."""
        if not self._server:
            return
        with contextlib.suppress(OSError):  # the next run asks again
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self._path, json.dumps({"server": self._server, "texts": self._texts}))


def server_identity(options: RunOptions) -> str:
    """Identifies the running server and its engine; "" if the metrics do not."""
    try:
        text = fetch_metrics(metrics_url(options.metrics_url, options.url))
    except (OSError, http.client.HTTPException, ValueError):
        return ""
    lines = [match for match in map(LINE.match, text.splitlines()) if match]
    told = {each["name"]: each for each in lines if each["name"] in (START, INFO)}
    if len(told) < 2:
        return ""
    return f"{options.url} {options.model} {told[INFO]['labels']} {told[START]['value']}"


def _key(conversation: Conversation) -> str:
    """A hash of what is sent; a chat's history follows from its earlier turns."""
    sent = [
        (turn.prompt, turn.messages, turn.max_tokens, sorted(turn.options.items()))
        for turn in conversation.turns
    ]
    return hashlib.sha256(repr((conversation.chat, sent)).encode()).hexdigest()


def _read(path: Path, server: str) -> dict[str, list[str]]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        texts = document["texts"] if document["server"] == server else {}
        return {str(key): [str(each) for each in digests] for key, digests in texts.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}  # truncated, or another format
