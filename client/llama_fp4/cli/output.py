"""What the commands print: text for a person or JSON for a program, never both.

Answers go to stdout, notes and errors to stderr. Bold and dim only on a terminal and without
NO_COLOR.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any, TextIO

from llama_fp4.errors import InvalidRequest, LlamaError, RequestTimeout

OK, SERVER_ERROR, USAGE, TIMEOUT, INTERRUPTED, BROKEN_PIPE = 0, 1, 2, 3, 130, 141
BOLD, DIM = "1", "2"
WIDTH = 79
# An answer may hold anything; on a terminal it must not move the cursor or rename the window.
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Parser(argparse.ArgumentParser):
    """Reports what is wrong in one sentence, with exit code 2 and without the usage."""

    def __init__(self, **more: Any) -> None:
        super().__init__(formatter_class=_Help, allow_abbrev=False, **more)

    def error(self, message: str) -> Any:
        raise InvalidRequest(f"{message}; see {self.prog} --help")


class _Help(argparse.HelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28, width=WIDTH)


def exit_code(error: LlamaError) -> int:
    """3 for a timeout, 2 for a wrong request (whoever refuses it), else 1."""
    if isinstance(error, RequestTimeout):
        return TIMEOUT
    return USAGE if isinstance(error, InvalidRequest) else SERVER_ERROR


def shown(stream: TextIO, text: str) -> str:
    """The text, without control characters if the stream is a terminal."""
    return CONTROL.sub("\ufffd", text) if stream.isatty() else text


def styled(stream: TextIO, code: str, text: str) -> str:
    """The text in BOLD or DIM, if the stream is a terminal."""
    if not text or not stream.isatty() or "NO_COLOR" in os.environ:
        return text
    return f"\x1b[{code}m{text}\x1b[0m"


def write(text: str) -> None:
    """Print a piece of an answer at once."""
    sys.stdout.write(shown(sys.stdout, text))
    sys.stdout.flush()


def say(text: str = "") -> None:
    """Print a line on stdout."""
    write(f"{text}\n")


def say_json(value: Any) -> None:
    """Print one JSON document on one line. Raises `ValueError` for nan, which JSON lacks."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n")
    sys.stdout.flush()


def note(text: str) -> None:
    """Print a line on stderr, beside the answer."""
    print(styled(sys.stderr, DIM, _lines(text)), file=sys.stderr, flush=True)


def complain(error: LlamaError, as_json: bool) -> None:
    """Print the error on stderr, as one sentence or one JSON document."""
    if as_json:
        document = {
            "error": {
                "class": type(error).__name__,
                "code": error.code,
                "message": str(error),
                "request_id": error.request_id,
                "retryable": error.retryable,
            }
        }
        print(json.dumps(document, ensure_ascii=False), file=sys.stderr, flush=True)
    else:
        sentence = _lines(f"error: {error}")
        print(styled(sys.stderr, BOLD, sentence), file=sys.stderr, flush=True)


def _lines(text: str) -> str:
    """Wrapped for the terminal that stderr is."""
    from llama_fp4.cli.wrap import wrapped  # which needs `shown`

    return wrapped(sys.stderr, text)


def say_table(rows: Iterable[Sequence[str]], heading: Sequence[str] = ()) -> None:
    """Print columns two blanks apart; columns of numbers are aligned to the right."""
    body = [[shown(sys.stdout, cell) for cell in row] for row in rows]
    cells = [list(heading), *body] if heading else body
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    right = [all(map(_is_number, column)) for column in zip(*body, strict=True)]
    for index, row in enumerate(cells):
        padded = (
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, right, strict=True)
        )
        line = "  ".join(padded).rstrip()
        # Styled after `shown`, which would remove the style.
        sys.stdout.write((styled(sys.stdout, BOLD, line) if heading and not index else line) + "\n")
    sys.stdout.flush()


def _is_number(cell: str) -> bool:
    return cell == "-" or cell.replace(".", "", 1).lstrip("-").isdigit()


def yes(value: bool) -> str:
    """`yes` or `no`."""
    return "yes" if value else "no"
