"""The text that Llama 3.1 generates -> text and calls of functions, while it comes.

A call has one of these forms, anywhere in the text:

    {"name": "f", "parameters": {...}}         also "arguments"; the members in any order, and
                                               "type": "function" or an "id" among them
    {"type": "function", "function": {"name": "f", "arguments": {...}}}
    [{...}, {...}]                             a list of them
    {...}; {...}                               several: ";", "," or white space between them
    <function=f>{...}</function>
    <|python_tag|>                             before any of these, or before
    f.call(name="value")                       the form of Llama's built-in functions

Everything else is text: a JSON value without the name of a function that may be called, calls
inside of other JSON, and broken calls. What is text goes out as soon as it is known to be text. A
call's arguments go out as they come, so a call can turn out to be broken later: see `CallBroken`.
White space and separators around calls, and what is around their arguments, are neither.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Collection
from dataclasses import dataclass, field
from string import ascii_letters, digits

from llama_fp4.gateway.tool_calls.answer_source import MAX_HELD, AnswerSource, NotACall, Reading
from llama_fp4.gateway.tool_calls.events import CallBegin, CallBroken, CallEnd, Event, EventList
from llama_fp4.gateway.tool_calls.json_scanner import JsonScanner

PYTHON_TAG = "<|python_tag|>"
FUNCTION_TAG, FUNCTION_END = "<function=", "</function>"
MAX_GAP = 256  # characters of white space that wait for a call
MAX_WORD = 128
MAX_STRING = 512  # characters of a name or a key, whose escapes count as they are written
_BEGINS = re.compile(r"[{\[<]")
_NAME = frozenset(ascii_letters + digits + "_-")
_HALF_CHARACTER = re.compile("[\ud800-\udfff]")
_JSON_BEGINS = re.compile(rf"(?:{re.escape(PYTHON_TAG)})?[\s,;]*(?=[{{\[])")


@dataclass
class _Call:
    """A call while it is read."""

    name: str | None = None
    begun: bool = False
    has_arguments: bool = False
    is_nested: bool = False  # its members are those of a member "function"
    waiting: list[str] = field(default_factory=list)  # arguments that came before the name


class ToolCallParser:
    """Feed it the pieces of one answer, in order. How they are cut does not matter."""

    def __init__(self, names: Collection[str], parallel: bool = True) -> None:
        """`names` of the functions that may be called; after one call all is text unless
        `parallel`."""
        self.made_calls = False  # whether a call is complete
        self._names = frozenset(names)
        self._parallel = parallel
        self._source = AnswerSource()
        self._out = EventList()
        self._index = 0  # of the next call
        self._call = _Call()
        self._may_end = False  # </function> may follow
        self._before = ""  # what stands before the call that is read, text if it is none
        self._reading: Reading[None] = self._answer()

    def feed(self, text: str) -> list[Event]:
        """What is known now that `text` came."""
        if not text:
            return []
        self._source.put(text)
        return self._read()

    def finish(self) -> list[Event]:
        """What is known now that the answer has ended."""
        self._source.ended = True
        return self._read()

    def _read(self) -> list[Event]:
        next(self._reading, None)
        return self._out.take()

    @property
    def _may_call(self) -> bool:
        return bool(self._names) and (self._parallel or not self.made_calls)

    def _answer(self) -> Reading[None]:
        source = self._source
        gap, after_call = (yield from source.space(MAX_GAP)), False
        while character := (yield from source.peek()):
            if self._may_call and character in "{[<":
                after_call = yield from self._attempt(gap)
                gap = (yield from self._gap()) if after_call else ""
            else:
                self._out.add_text(gap)
                gap, after_call = "", False
                self._plain()
        if not after_call:
            self._out.add_text(gap)

    def _gap(self) -> Reading[str]:
        """What may stand between two calls."""
        source = self._source
        gap = yield from source.space(MAX_GAP)
        if self._may_end and (yield from source.skipped(FUNCTION_END)):
            gap = yield from source.space(MAX_GAP)
        self._may_end = False
        if self._may_call and (yield from source.peek()) in (";", ","):
            gap += yield from source.take()
            gap += yield from source.space(MAX_GAP)
        return gap

    def _plain(self) -> None:
        """Text up to where a call may begin."""
        source = self._source
        found = _BEGINS.search(source.chunk, source.at + 1) if self._may_call else None
        end = found.start() if found else len(source.chunk)
        self._out.add_text(source.chunk[source.at : end])
        source.at = end

    def _attempt(self, gap: str) -> Reading[bool]:
        """Read one call, or a list of them, or else text. Whether the last thing was a call."""
        source = self._source
        source.hold()
        self._before, self._call = gap, _Call()
        try:
            yield from self._calls()
        except NotACall:
            held = source.release()
            if self._call.begun:
                self._out.add(CallBroken(self._index, self._before + held))
                self._index += 1
            else:
                self._out.add_text(self._before + held)
            yield from self._other_json(held)
            return False
        source.release()
        return True

    def _other_json(self, held: str) -> Reading[None]:
        """A JSON value that began with `held` is text up to its end, or to where it is none."""
        begin = _JSON_BEGINS.match(held)
        if begin is None:
            return
        scanner, source = JsonScanner(), self._source
        scanner.feed(held, begin.end())
        while not (scanner.done or scanner.broken) and (yield from source.peek()):
            start = source.at
            source.at = scanner.feed(source.chunk, start)
            self._out.add_text(source.chunk[start : source.at])

    def _calls(self) -> Reading[None]:
        source = self._source
        while (character := (yield from source.peek())) == "<":
            if (yield from source.one_of(PYTHON_TAG, FUNCTION_TAG)) == FUNCTION_TAG:
                yield from self._function_call()
                return
            yield from source.space()
        if character == "{":
            yield from self._object_call()
        elif character == "[":
            yield from self._list_of_calls()
        else:
            yield from self._built_in_call()

    def _list_of_calls(self) -> Reading[None]:
        source = self._source
        yield from source.expect("[")
        while True:
            yield from source.space()
            yield from self._object_call()
            yield from source.space()
            if (yield from source.one_of(",", "]")) == "]":
                return
            if not self._may_call:
                raise NotACall

    def _object_call(self) -> Reading[None]:
        yield from self._members()
        if not self._call.begun:
            raise NotACall
        self._end_call()

    def _members(self) -> Reading[None]:
        source = self._source
        yield from source.expect("{")
        while True:
            yield from source.space()
            key = yield from self._string()
            yield from source.space()
            yield from source.expect(":")
            yield from source.space()
            yield from self._member(key)
            yield from source.space()
            if (yield from source.one_of(",", "}")) == "}":
                return

    def _member(self, key: str) -> Reading[None]:
        is_object = (yield from self._source.peek()) == "{"
        call = self._call
        if key in ("parameters", "arguments") and not call.has_arguments:
            call.has_arguments = True
            yield from self._arguments()
        elif key == "function" and is_object and not call.is_nested:
            call.is_nested = True
            yield from self._members()
        elif key in ("name", "function") and call.name is None:
            self._called((yield from self._string()))
        elif key not in ("type", "id") or (
            (yield from self._string()) != "function" and key == "type"
        ):
            raise NotACall

    def _arguments(self) -> Reading[None]:
        """An object; also an object as text of JSON, and null for an empty one."""
        character = yield from self._source.peek()
        if character == "{":
            yield from self._value()
            return
        if character == "n":
            yield from self._source.expect("null")
            self._argument("{}")
            return
        text = (yield from self._string(MAX_HELD)).strip() or "{}"
        scanner = JsonScanner()
        whole = text.startswith("{") and scanner.feed(text) == len(text) and scanner.done
        if not whole or _HALF_CHARACTER.search(text):
            raise NotACall
        self._argument(text)

    def _value(self) -> Reading[None]:
        """Any JSON value, as a part of the arguments."""
        scanner, source = JsonScanner(), self._source
        while (yield from source.peek()):
            start = source.at
            source.at = scanner.feed(source.chunk, start)
            self._argument(source.chunk[start : source.at])
            if scanner.done:
                return
            if scanner.broken:
                break
        raise NotACall

    def _string(self, most: int = MAX_STRING) -> Reading[str]:
        """The text that a JSON string is, unless it is longer."""
        source = self._source
        if (yield from source.peek()) != '"':
            raise NotACall
        scanner, pieces, size = JsonScanner(), list[str](), 0
        while not scanner.done:
            if scanner.broken or size > most or not (yield from source.peek()):
                raise NotACall
            start = source.at
            source.at = scanner.feed(source.chunk, start)
            pieces.append(source.chunk[start : source.at])
            size += len(pieces[-1])
        text: str = json.loads("".join(pieces))
        return text

    def _function_call(self) -> Reading[None]:
        """What follows `<function=`. At times Llama leaves out its end, or the ">"."""
        source = self._source
        self._called((yield from source.word(_NAME, MAX_WORD)))
        yield from source.space()
        if (yield from source.peek()) == ">":
            yield from source.take()
            yield from source.space()
        if (yield from source.peek()) == "<":
            yield from source.expect(FUNCTION_END)
            self._argument("{}")
            self._end_call()
            return
        if (yield from source.peek()) != "{":
            raise NotACall
        yield from self._value()
        self._end_call()
        self._may_end = True

    def _built_in_call(self) -> Reading[None]:
        """`brave_search.call(query="...")`"""
        source = self._source
        self._called((yield from source.word(_NAME, MAX_WORD)))
        yield from source.expect(".call(")
        yield from source.space()
        self._argument("{")
        separator = ""
        while (yield from source.peek()) != ")":
            name = yield from source.word(_NAME, MAX_WORD)
            if not name:
                raise NotACall
            yield from source.space()
            yield from source.expect("=")
            yield from source.space()
            self._argument(f'{separator}"{name}": ')
            yield from self._value()
            yield from source.space()
            if (yield from source.peek()) != ",":
                break
            yield from source.take()
            yield from source.space()
            separator = ", "
        yield from source.expect(")")
        self._argument("}")
        self._end_call()

    def _called(self, name: str) -> None:
        """The call's name is known."""
        if name not in self._names:
            raise NotACall
        self._call.name = name
        if self._call.waiting:
            waiting, self._call.waiting = self._call.waiting, []
            self._argument("".join(waiting))

    def _argument(self, text: str) -> None:
        call = self._call
        if call.name is None:
            call.waiting.append(text)
            return
        if not call.begun:
            call.begun = True
            self._out.add(CallBegin(self._index, f"call_{uuid.uuid4().hex[:24]}", call.name))
        self._out.add_arguments(self._index, text)

    def _end_call(self) -> None:
        self._out.add(CallEnd(self._index))
        self.made_calls = True
        self._index += 1
        self._before, self._call = "", _Call()
        self._source.hold()
