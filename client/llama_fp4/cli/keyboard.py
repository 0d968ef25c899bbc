"""Reads what the user of `chat` types: lines, continued lines and blocks, as messages."""

from __future__ import annotations

import contextlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from llama_fp4.errors import InvalidRequest

PROMPT, CONTINUED = "> ", "... "
BLOCK = '"""'
HISTORY_LINES = 1000


@dataclass(frozen=True)
class Entry:
    """One message or one command; a block is never a command."""

    text: str
    is_command: bool


class Lines:
    """Reads standard input; with prompts, line editing and a history file on a terminal."""

    def __init__(self) -> None:
        self.interactive = sys.stdin.isatty()
        # `input` edits lines only if both ends are terminals; else it would prompt on stdout.
        self._editing = self.interactive and sys.stdout.isatty()
        self._history = history_file() if self._editing else None
        if self._history is not None:
            load_history(self._history)

    def entry(self) -> Entry:
        """The next entry. Raises `EOFError` at the end and `KeyboardInterrupt` on Ctrl-C."""
        line = self._line(PROMPT)
        if line.lstrip().startswith(BLOCK):
            return Entry(self._block(line.lstrip().removeprefix(BLOCK)), False)
        parts = []
        while line.endswith("\\"):
            parts.append(line[:-1])
            try:
                line = self._line(CONTINUED)
            except EOFError:
                line = ""
        text = "\n".join([*parts, line]).strip()
        return Entry(text, text.startswith("/"))

    def save(self) -> None:
        """Write the history file, readable by its owner only; does nothing where that fails."""
        if self._history is None:
            return
        with contextlib.suppress(OSError):
            import readline

            self._history.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            aside = self._history.with_name(f"{self._history.name}.{os.getpid()}")
            os.close(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600))
            readline.set_history_length(HISTORY_LINES)
            readline.write_history_file(aside)
            os.replace(aside, self._history)

    def _block(self, line: str) -> str:
        lines = []
        while not line.rstrip().endswith(BLOCK):
            lines.append(line)
            try:
                line = self._line(CONTINUED)
            except EOFError as error:
                raise InvalidRequest(f"the block must end with a second {BLOCK}") from error
        lines.append(line.rstrip().removesuffix(BLOCK))
        return "\n".join(lines).strip("\n")

    def _line(self, prompt: str) -> str:
        if self._editing:
            try:
                return input(prompt)
            except UnicodeDecodeError as error:
                raise InvalidRequest("the line must be UTF-8") from error
            except SystemError as error:
                # CPython's input() runs the next signal's handler with Ctrl-C's exception set.
                if isinstance(error.__cause__, KeyboardInterrupt):
                    raise error.__cause__ from None
                raise
        if self.interactive:
            sys.stderr.write(prompt)
            sys.stderr.flush()
        raw = sys.stdin.buffer.readline()
        if not raw:
            raise EOFError
        try:
            return raw.decode().removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError as error:
            raise InvalidRequest("the line must be UTF-8") from error


def history_file() -> Path:
    """Where the history is, by the XDG base directory specification."""
    state = os.environ.get("XDG_STATE_HOME", "")
    folder = Path(state) if os.path.isabs(state) else Path.home() / ".local" / "state"
    return folder / "llama-fp4" / "chat_history"


def load_history(path: Path) -> None:
    """Load it into readline, if Python has that."""
    with contextlib.suppress(ImportError, OSError):
        import readline

        readline.read_history_file(path)
