"""API keys: a file of their hashes, one a line with a name, read again when it changes.

A key is 256 random bits, which nobody can guess from a fast hash.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from pathlib import Path

from llama_fp4.errors import InvalidRequest

LINE = re.compile(r"([0-9a-f]{64})(?:\s+(\S.*))?")
PREFIX = "llama-fp4-"


def new_key() -> str:
    """A random key."""
    return PREFIX + secrets.token_urlsafe(32)


def hashed(key: str) -> str:
    """SHA-256 of a key, as the file holds it."""
    return hashlib.sha256(key.encode(errors="replace")).hexdigest()


class ApiKeys:
    """The keys of one file. Raises `InvalidRequest` if it cannot be read or holds no key."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._changed = -1.0
        self._names: dict[str, str] = {}
        self._read()

    def name_of(self, key: str) -> str | None:
        """The name of a key that is in the file; None for any other."""
        self._refresh()
        given, found = hashed(key), None
        for known, name in self._names.items():  # all of them, so that the time tells nothing
            if hmac.compare_digest(given, known):
                found = name
        return found

    def _refresh(self) -> None:
        """A file that is gone or broken later leaves the keys as they were."""
        try:
            if self._path.stat().st_mtime_ns != self._changed:
                self._read()
        except (OSError, InvalidRequest):
            return

    def _read(self) -> None:
        try:
            changed = self._path.stat().st_mtime_ns
            lines = self._path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidRequest(f"--api-keys must be a readable file: {error}") from error
        names = {}
        for number, line in enumerate(lines, 1):
            text = line.strip()
            if not text or text.startswith("#"):
                continue
            match = LINE.fullmatch(text)
            if match is None:  # never the line itself: it may be a key
                raise InvalidRequest(
                    f"line {number} of {self._path} must be a key's SHA-256 in hex and a name, as "
                    "'llama-fp4 gateway --new-key NAME' prints it"
                )
            names[match[1]] = match[2] or ""
        if not names:
            raise InvalidRequest(f"{self._path} must hold at least one key")
        self._names, self._changed = names, changed
