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

    def asked(self, text: str) -> list[Message]:
        """What is sent to have this message answered; nothing is kept yet."""
        before = [] if self.system is None else [{"role": "system", "content": self.system}]
        return [*before, *self._turns, {"role": "user", "content": text}]

    def keep(self, text: str, answer: str) -> bool:
        """Add the turn; one without an answer is dropped, and False returned."""
        if not answer:
            return False
        pair = [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]
        self._turns = [*self._turns, *pair]
        return True

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
