"""Digests of unloaded texts, kept between runs against one and the same running server.

A text is right of the server that wrote it, and of no other: another checkpoint, runtime, precision
or version of this project may write another. So the digests are kept under what the engine tells of
itself and the moment at which it was loaded; a server that does not tell that is asked every time.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
from pathlib import Path

from command_line.options import RunOptions
from figures.server_metrics import LINE
from figures.server_samples import fetch_metrics, metrics_url
from output.whole_file import write_whole
from traffic.workloads import Conversation

PATH = Path(__file__).resolve().parents[2] / "build" / "out" / "loadtest" / "unloaded.json"
START, INFO = "llama_fp4_start_time_seconds", "llama_fp4_engine_info"


class UnloadedCache:
    """Of one server, named by `server`; "" keeps nothing."""

    def __init__(self, server: str, path: Path = PATH) -> None:
        self._server = server
        self._path = path
        self._texts = _read(path, server) if server else {}

    def get(self, conversation: Conversation) -> list[str]:
        """The digests of its greedy turns, in order; none where they are not known."""
        return self._texts.get(_key(conversation), [])

    def put(self, conversation: Conversation, digests: list[str]) -> None:
        """Of all its greedy turns."""
        if self._server:
            self._texts[_key(conversation)] = digests

    def clear(self) -> None:
        """Forget all of them."""
        self._texts = {}

    def save(self) -> None:
        """In place of what is there: of another server, or of another run, which loses its own."""
        if not self._server:
            return
        with contextlib.suppress(OSError):  # the next run asks again
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self._path, json.dumps({"server": self._server, "texts": self._texts}))


def server_identity(options: RunOptions) -> str:
    """The running server and its engine, as it tells of them; "" where it does not."""
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
    """Of all that is sent; a chat's later turns follow from the answers to its earlier ones."""
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
        return {}  # cut or of another format: as none
