"""What begins with a slash in `chat`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

from llama_fp4.cli.conversation import Conversation
from llama_fp4.cli.generate import AS_MANY
from llama_fp4.cli.options import allowed, check_text, parse_value
from llama_fp4.cli.output import say
from llama_fp4.cli.wrap import Wrapped
from llama_fp4.errors import InvalidRequest
from llama_fp4.sampling import LISTS, NAMES, SamplingParams

HELP = """\
/retry             ask the last message again; the new answer replaces the old one
/reset             forget the conversation, but not the system message
/system            show the system message
/system TEXT       set it from here on; /system - takes it away
/params            show the sampling parameters that are set
/params NAME X     set one; /params NAME - leaves it to the server
/save FILE         write the messages to a new file, as JSON
/quit              end, as does Ctrl-D
A line that ends with \\ goes on in the next one, and \"\"\" begins and ends a block.
Ctrl-C cancels the answer; what is shown of it stays in the conversation."""


class Commands:
    """They act on one conversation; `params` are those of the next answer."""

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
        """Returns whether the session ends with it. Raises `InvalidRequest`."""
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
