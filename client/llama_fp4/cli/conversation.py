"""The messages of a conversation, which are always ones that the server would take again."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from llama_fp4.errors import InvalidRequest

Message = dict[str, str]


class Conversation:
    """Turns come in pairs, a user's message and its answer; a system message stands before."""

    def __init__(self, system: str | None = None) -> None:
        self.system = system
        self._turns: list[Message] = []

    def asked(self, text: str, again: bool = False) -> list[Message]:
        """What is sent to have this message answered; nothing is kept yet.

        `again`: in place of the last turn.
        """
        before = [] if self.system is None else [{"role": "system", "content": self.system}]
        return [*before, *self._before(again), {"role": "user", "content": text}]

    def keep(self, text: str, answer: str, again: bool = False) -> bool:
        """Add the turn, or replace the last one; without an answer nothing changes, and False is
        returned."""
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
        document: list[Any] = self.messages
        text = json.dumps(document, ensure_ascii=False, indent=2) + "\n"
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
