"""`llama-fp4 chat`: a conversation. On a terminal a session; else a script, a message a line.

In a session Ctrl-C and errors end an answer and nothing else; a script ends with the first error.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

from llama_fp4.answers import Completion, Timing
from llama_fp4.cli.generate import AS_MANY, ENDS, completion_json, end_of
from llama_fp4.cli.inspect_server import add_metrics_url, banner
from llama_fp4.cli.keyboard import Lines
from llama_fp4.cli.options import (
    ServerOptions,
    add_sampling_options,
    add_server_options,
    allowed,
    check_text,
    parse_value,
    sampling_params,
    server_options,
)
from llama_fp4.cli.output import INTERRUPTED, OK, complain, note, say, say_json
from llama_fp4.cli.wrap import Wrapped
from llama_fp4.client import Client
from llama_fp4.errors import Cancelled, InvalidRequest, LlamaError
from llama_fp4.sampling import LISTS, NAMES, SamplingParams

Message = dict[str, str]
KEPT = "[cancelled; the conversation keeps what is shown]"
DROPPED = "[cancelled; nothing was answered, so the message is dropped too]"
GREEDY = "[greedy: the same answer again; /params temperature 0.7 draws another]"
SEEDED = "[a seed is set: the same answer again; /params seed - draws another]"
HELP = """\
/retry             ask the last message again; the new answer replaces the old one
/reset             forget the conversation, but not the system message
/system            show the system message
/system TEXT       set it from here on; /system - removes it
/params            show the sampling parameters that are set
/params NAME X     set one; /params NAME - leaves it to the server
/save FILE         write the messages to a new file, as JSON
/quit              end, as does Ctrl-D
A line that ends with \\ continues on the next one, and \"\"\" begins and ends a block.
Ctrl-C cancels the answer; the conversation keeps the part that is shown."""


@dataclass(frozen=True)
class ChatOptions:
    """`metrics_url` is for the banner; `params` are those of the first answer."""

    server: ServerOptions
    params: SamplingParams
    system: str | None
    streamed: bool | None
    metrics_url: str | None


def add_chat_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `llama-fp4 chat`."""
    parser.add_argument("--system", metavar="TEXT", help="system message of the conversation")
    parser.add_argument(
        "--no-stream", action="store_true", help="print an answer when it is complete"
    )
    add_metrics_url(parser)
    add_server_options(parser)
    add_sampling_options(parser, AS_MANY)


def chat_options(given: argparse.Namespace) -> ChatOptions:
    """Raises `InvalidRequest`."""
    if given.system is not None:
        check_text("--system", given.system)
    return ChatOptions(
        server_options(given),
        sampling_params(given, open_ended=True),
        given.system,
        False if given.no_stream else None,
        given.metrics_url,
    )


def run_chat(options: ChatOptions) -> int:
    """The session's exit code; in a script raises what its first wrong line raises."""
    with options.server.client() as client:
        session = Session(client, options)
        try:
            return session.run()
        finally:
            session.lines.save()


class Session:
    """Reads what is typed, answers it and keeps the conversation."""

    def __init__(self, client: Client, options: ChatOptions) -> None:
        self.lines = Lines()
        self._client, self._options = client, options
        self._as_json = options.server.as_json
        self._conversation = Conversation(options.system)
        self._commands = Commands(self._conversation, options.params, self._retry)
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
                complain(error, self._as_json)
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
            note(banner(self._client, self._options.server, self._options.metrics_url))
        except LlamaError as error:  # the server may come yet
            complain(error, self._as_json)
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
        as_json, shown = self._as_json, Wrapped()
        messages, params = self._conversation.asked(text, again), self._commands.params
        try:
            streamed = self._options.streamed
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
        if not self._as_json and (parts or self.lines.interactive):
            with contextlib.suppress(BrokenPipeError):
                sys.stdout.write("\n")
                sys.stdout.flush()


class Commands:
    """What begins with a slash; `params` are those of the next answer."""

    def __init__(
        self, conversation: Conversation, params: SamplingParams, retry: Callable[[], None]
    ) -> None:
        self._conversation, self.params, self._ask_again = conversation, params, retry
        self._known = {
            "/help": self._help,
            "/params": self._params,
            "/quit": self._nothing,
            "/reset": self._reset,
            "/retry": self._retry,
            "/save": self._save,
            "/system": self._system,
        }

    def run(self, line: str) -> bool:
        """Returns whether it ends the session. Raises `InvalidRequest`."""
        name, *more = line.split(None, 1)
        rest = "".join(more)
        if name not in self._known:
            raise InvalidRequest(
                f"the command must be one of {', '.join(self._known)}, not {name!r:.60}; "
                '""" around a message lets it begin with /'
            )
        self._known[name](rest.strip())
        return name == "/quit"

    def _help(self, _: str) -> None:
        shown = Wrapped()
        shown.write(f"{HELP}\n")
        shown.flush()

    def _nothing(self, _: str) -> None:
        pass

    def _reset(self, _: str) -> None:
        self._conversation.reset()

    def _retry(self, _: str) -> None:
        self._ask_again()

    def _save(self, rest: str) -> None:
        if not rest:
            raise InvalidRequest("/save must name a file: /save FILE")
        self._conversation.save(Path(rest).expanduser())

    def _system(self, rest: str) -> None:
        if rest:
            self._conversation.system = None if rest == "-" else check_text("/system", rest)
        else:
            say(self._conversation.system or "no system message")

    def _params(self, rest: str) -> None:
        name, _, value = rest.replace("=", " ", 1).partition(" ")
        if not name:
            if self.params.max_tokens is None:
                say(f"max_tokens {AS_MANY}")
            for given, values in self.params.given().items():
                say(f"{given} {' '.join(map(str, values))}")
            return
        if name not in NAMES:
            self.params.merged({name: value})  # raises, with a hint where there is one
        value = value.strip()
        if not value:
            raise InvalidRequest(f"{name} must have a value: {allowed(name) or 'a text'}")
        self.params = self.params.merged({name: _value(name, value)})


def _value(name: str, text: str) -> object:
    if text == "-" and name == "max_tokens":
        return None
    if text == "-":
        return next(f.default for f in fields(SamplingParams) if f.name == name)
    value = parse_value(name, text)
    return (value,) if name in LISTS else value


class Conversation:
    """Pairs of a user's message and its answer, after a system message: always valid to send."""

    def __init__(self, system: str | None = None) -> None:
        self.system = system
        self._turns: list[Message] = []

    def asked(self, text: str, again: bool = False) -> list[Message]:
        """The messages that ask for an answer to `text`; nothing is kept yet.

        `again`: `text` replaces the last turn.
        """
        before = [] if self.system is None else [{"role": "system", "content": self.system}]
        return [*before, *self._before(again), {"role": "user", "content": text}]

    def keep(self, text: str, answer: str, again: bool = False) -> bool:
        """Add the turn, or replace the last one. Without an answer it returns False and does
        nothing."""
        if not answer:
            return False
        pair = [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]
        self._turns = [*self._before(again), *pair]
        return True

    def _before(self, again: bool) -> list[Message]:
        return self._turns[:-2] if again else self._turns

    @property
    def last(self) -> str | None:
        """The message of the last turn; None before there is one."""
        return self._turns[-2]["content"] if self._turns else None

    def reset(self) -> None:
        """Forget the turns; the system message stays."""
        self._turns = []

    @property
    def messages(self) -> list[Message]:
        """All that is kept, in OpenAI's form."""
        return self.asked("")[:-1]

    def save(self, path: Path) -> None:
        """Write the messages as JSON, whole or not at all. Raises `InvalidRequest`."""
        text = json.dumps(self.messages, ensure_ascii=False, indent=2) + "\n"
        aside = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            aside.write_text(text, encoding="utf-8")
            os.link(aside, path)  # unlike a rename, not over another file
        except FileExistsError as error:
            raise InvalidRequest(f"{path} exists, and must be a new file") from error
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise InvalidRequest(f"{path} cannot be written: {reason}") from error
        finally:
            if aside.name and os.path.lexists(aside):
                aside.unlink()


def pace(completion: Completion) -> str:
    """As "57 tokens, 31.2 tokens/s, the first after 0.21 s"."""
    count, timing = completion.num_output_tokens, completion.timing
    parts = [f"{count} token{'' if count == 1 else 's'}"]
    rate = tokens_per_s(timing)
    if rate is not None:
        parts.append(f"{rate:.1f} tokens/s")
    if timing.num_responses > 1 and timing.ttft_s is not None:
        parts.append(f"the first after {timing.ttft_s:.2f} s")
    return ", ".join(parts)


def tokens_per_s(timing: Timing) -> float | None:
    """Rate after the first response; with a single response, over the whole request."""
    if timing.tpot_s:
        return 1 / timing.tpot_s
    if timing.num_responses == 1 and timing.num_output_tokens and timing.e2e_s:
        return timing.num_output_tokens / timing.e2e_s
    return None


def _tell(completion: Completion, params: SamplingParams) -> None:
    """Notes after an answer: its pace, and why it was cut off."""
    note(f"[{pace(completion)}]")
    end = end_of(completion, params)
    if end in ENDS.values():
        name = end.rpartition("--")[2].replace("-", "_")
        note(f"[the answer ended at {name}; /params {name} N changes it]")
    elif end:
        note(f"[{end}; /reset begins a new conversation]")


def _why_the_same(params: SamplingParams) -> str:
    """Why asking again gives the same answer; "" if it may give another."""
    sampled = (params.temperature, params.top_k, params.top_p, params.min_p)
    if not any(sampled) or params.temperature == 0 or params.top_k == 1:
        return GREEDY
    return "" if params.seed is None else SEEDED
