"""`llama-fp4 chat`: a conversation. On a terminal a session; else a script, a message a line.

In a session Ctrl-C and errors end an answer and nothing else; a script ends with the first error.
"""

from __future__ import annotations

import argparse
import contextlib
import sys

from llama_fp4.answers import Completion
from llama_fp4.cli.banner import banner, pace
from llama_fp4.cli.chat_commands import Commands
from llama_fp4.cli.conversation import Conversation
from llama_fp4.cli.generate import AS_MANY, ENDS, completion_json, end_of
from llama_fp4.cli.keyboard import Lines
from llama_fp4.cli.options import (
    add_sampling_options,
    add_server_options,
    check_text,
    open_client,
    sampling_params,
)
from llama_fp4.cli.output import INTERRUPTED, OK, complain, note, say, say_json
from llama_fp4.cli.wrap import Wrapped
from llama_fp4.client import Client
from llama_fp4.errors import Cancelled, InvalidRequest, LlamaError
from llama_fp4.sampling import SamplingParams

KEPT = "[cancelled; the conversation keeps what is shown]"
DROPPED = "[cancelled; nothing was answered, so the message is dropped too]"
GREEDY = "[greedy: the same answer again; /params temperature 0.7 draws another]"
SEEDED = "[a seed is set: the same answer again; /params seed - draws another]"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Of this command."""
    parser.add_argument("--system", metavar="TEXT", help="system message of the conversation")
    parser.add_argument("--no-stream", action="store_true", help="print an answer when it is whole")
    parser.add_argument("--metrics-url", metavar="URL", help="for the banner; as of `metrics`")
    add_server_options(parser)
    add_sampling_options(parser, AS_MANY)


def run(options: argparse.Namespace) -> int:
    """The session's exit code; in a script raises what its first wrong line raises."""
    if options.system is not None:
        check_text("--system", options.system)
    with open_client(options) as client:
        session = Session(client, options)
        try:
            return session.run()
        finally:
            session.lines.save()


class Session:
    """What is typed, what is kept of it and how it is answered."""

    def __init__(self, client: Client, options: argparse.Namespace) -> None:
        self.lines = Lines()
        self._client, self._options = client, options
        self._conversation = Conversation(options.system)
        params = sampling_params(options, open_ended=True)
        self._commands = Commands(self._conversation, params, self._retry)
        self._unanswered: str | None = None  # the last message, if the conversation lacks it

    def run(self) -> int:
        """Until /quit or the end of the input."""
        if self.lines.interactive:
            self._greet()
        while True:
            try:
                if self._turn():
                    return OK
            except EOFError:
                if self.lines.interactive:
                    note("")
                return OK
            except LlamaError as error:
                if not self.lines.interactive:
                    raise
                complain(error, self._options.json)
            except KeyboardInterrupt:
                if not self.lines.interactive:
                    return INTERRUPTED
                note(f"\n{DROPPED}")

    def _turn(self) -> bool:
        """One entry; returns whether it was the last."""
        try:
            entry = self.lines.entry()
        except KeyboardInterrupt:
            if not self.lines.interactive:
                raise
            note("\n[Ctrl-D or /quit ends]")
            return False
        if entry.is_command:
            return self._commands.run(entry.text)
        if entry.text:
            self._answer(check_text("the message", entry.text))
        return False

    def _greet(self) -> None:
        try:
            note(banner(self._client, self._options))
        except LlamaError as error:  # the server may come yet
            complain(error, self._options.json)
        note("/help lists commands, Ctrl-C cancels an answer, Ctrl-D ends")

    def _retry(self) -> None:
        """Raises `InvalidRequest` if there is no message yet."""
        again = self._unanswered is None
        text = self._conversation.last if again else self._unanswered
        if text is None:
            raise InvalidRequest("/retry must follow a message, and there is none yet")
        same = _why_the_same(self._commands.params)
        if again and same and self.lines.interactive:
            note(same)
        self._answer(text, again)

    def _answer(self, text: str, again: bool = False) -> None:
        """Print the answer and keep the turn. A cancelled one is kept as far as it was shown."""
        parts: list[str] = []
        if not again:
            self._unanswered = text
        try:
            self._stream(text, parts, again)
        except KeyboardInterrupt:
            kept = self._keep(text, "".join(parts), again)
            self._end_line(parts)
            if not self.lines.interactive:
                raise
            note(KEPT if kept else DROPPED)
        except LlamaError:
            self._end_line(parts)
            if self.lines.interactive:
                note("[the conversation is as it was before this message]")
            raise

    def _stream(self, text: str, parts: list[str], again: bool) -> None:
        as_json, shown = self._options.json, Wrapped()
        messages, params = self._conversation.asked(text, again), self._commands.params
        try:
            streamed = False if self._options.no_stream else None
            with self._client.stream(messages, params, stream=streamed) as stream:
                for chunk in stream:
                    parts.append(chunk.text)
                    if not as_json:
                        shown.write(chunk.text)
        finally:
            shown.flush()
        completion = stream.completion
        if completion.finish_reason == "cancelled":
            raise Cancelled("the answer was cancelled on the server", request_id=stream.request_id)
        self._keep(text, completion.text, again)
        if as_json:
            say_json(completion_json(completion))
            return
        say()
        if self.lines.interactive:
            _tell(completion, params)

    def _keep(self, text: str, answer: str, again: bool) -> bool:
        kept = self._conversation.keep(text, answer, again)
        if kept:
            self._unanswered = None
        return kept

    def _end_line(self, parts: list[str]) -> None:
        if not self._options.json and (parts or self.lines.interactive):
            with contextlib.suppress(BrokenPipeError):
                sys.stdout.write("\n")
                sys.stdout.flush()


def _tell(completion: Completion, params: SamplingParams) -> None:
    """After an answer: its pace, and why it is not the model's whole one."""
    note(f"[{pace(completion)}]")
    end = end_of(completion, params)
    if end in ENDS.values():
        name = end.rpartition("--")[2].replace("-", "_")
        note(f"[the answer ended at {name}; /params {name} N changes it]")
    elif end:
        note(f"[{end}; /reset begins a new conversation]")


def _why_the_same(params: SamplingParams) -> str:
    """Why the same question gets the same answer; "" if it may get another."""
    sampled = (params.temperature, params.top_k, params.top_p, params.min_p)
    if not any(sampled) or params.temperature == 0 or params.top_k == 1:
        return GREEDY
    return "" if params.seed is None else SEEDED
