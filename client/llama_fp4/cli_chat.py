"""`llama-fp4 chat`: a conversation. On a terminal a session; else a script, a message a line.

In a session Ctrl-C and errors end an answer and nothing else; a script ends with the first error.
"""

from __future__ import annotations

import argparse
import contextlib
import sys

from llama_fp4.cli_commands import Commands
from llama_fp4.cli_console import INTERRUPTED, OK, complain, note, say, say_json, write
from llama_fp4.cli_conversation import Conversation
from llama_fp4.cli_generate import ENDS, completion_json
from llama_fp4.cli_lines import Lines
from llama_fp4.cli_options import (
    add_sampling_options,
    add_server_options,
    check_text,
    open_client,
    sampling_params,
)
from llama_fp4.client import Client
from llama_fp4.errors import Cancelled, LlamaError

KEPT = "[cancelled; the conversation keeps what is shown]"
DROPPED = "[cancelled; nothing was answered, so the message is dropped too]"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Of this command."""
    parser.add_argument("--system", metavar="TEXT", help="system message of the conversation")
    parser.add_argument("--no-stream", action="store_true", help="print an answer when it is whole")
    add_server_options(parser)
    add_sampling_options(parser)


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
        self._commands = Commands(self._conversation, sampling_params(options))

    def run(self) -> int:
        """Until /quit or the end of the input."""
        if self.lines.interactive:
            note("/help lists commands, Ctrl-C cancels an answer, Ctrl-D ends")
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

    def _answer(self, text: str) -> None:
        """Print the answer and keep the turn. A cancelled one is kept as far as it was shown."""
        parts: list[str] = []
        try:
            self._stream(text, parts)
        except KeyboardInterrupt:
            kept = self._conversation.keep(text, "".join(parts))
            self._end_line(parts)
            if not self.lines.interactive:
                raise
            note(KEPT if kept else DROPPED)
        except LlamaError:
            self._end_line(parts)
            if self.lines.interactive:
                note("[the conversation is as it was before this message]")
            raise

    def _stream(self, text: str, parts: list[str]) -> None:
        as_json = self._options.json
        messages, params = self._conversation.asked(text), self._commands.params
        with self._client.stream(messages, params, stream=not self._options.no_stream) as stream:
            for chunk in stream:
                parts.append(chunk.text)
                if not as_json:
                    write(chunk.text)
        completion = stream.completion
        if completion.finish_reason == "cancelled":
            raise Cancelled("the answer was cancelled on the server", request_id=stream.request_id)
        self._conversation.keep(text, completion.text)
        if as_json:
            say_json(completion_json(completion))
            return
        say()
        if self.lines.interactive and completion.finish_reason in ENDS:
            name = ENDS[completion.finish_reason].rpartition("--")[2].replace("-", "_")
            note(f"[the answer ended at {name}; /params {name} N changes it]")

    def _end_line(self, parts: list[str]) -> None:
        if not self._options.json and (parts or self.lines.interactive):
            with contextlib.suppress(BrokenPipeError):
                sys.stdout.write("\n")
                sys.stdout.flush()
