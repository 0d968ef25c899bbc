"""The framing of HTTP/1.1: which of a response's bytes are its body; no I/O."""

from __future__ import annotations

from llama_fp4.errors import ConnectionLost, ServerFailed


class Body:
    """Takes a response's bytes as they come and gives those of its body."""

    def __init__(self) -> None:
        self.status = 0
        self.done = False
        self._buffer = b""
        self._left: int | None = None  # of the body; None: until the end
        self._chunked = False

    def feed(self, data: bytes) -> bytes:
        """`data` is b"" when the connection has ended. Raises `ConnectionLost` if that is early."""
        if not data:
            if self.status and not self._chunked and self._left is None:
                self.done = True
                return b""
            raise ConnectionLost("the connection ended within the response")
        self._buffer += data
        if not self.status and not self._read_head():
            return b""
        return self._read_chunks() if self._chunked else self._read_plain()

    def _read_head(self) -> bool:
        raw, end, rest = self._buffer.partition(b"\r\n\r\n")
        if not end:
            return False
        first, *lines = raw.decode("latin-1").split("\r\n")
        version, _, status = first.partition(" ")
        if not version.startswith("HTTP/1.") or not status[:3].isdigit():
            raise ServerFailed(f"{first!r:.60} is not HTTP")
        named = {
            n.lower().strip(): v.strip() for n, _, v in (line.partition(":") for line in lines)
        }
        self.status = int(status[:3])
        self._chunked = named.get("transfer-encoding", "").lower() == "chunked"
        if "content-length" in named:
            self._left = _size(named["content-length"], 10)
        self._buffer = rest
        return True

    def _read_plain(self) -> bytes:
        data, self._buffer = self._buffer, b""
        if self._left is not None:
            self._left -= len(data)
            self.done = self._left <= 0
        return data

    def _read_chunks(self) -> bytes:
        """Whole chunks alone: Triton sends an event as one."""
        body = []
        while not self.done:
            line, end, rest = self._buffer.partition(b"\r\n")
            size = _size(line.split(b";")[0], 16) if end else 0
            if not end or len(rest) < size + 2:
                break
            body.append(rest[:size])
            self._buffer = rest[size + 2 :]
            self.done = size == 0
        return b"".join(body)


def _size(digits: bytes | str, base: int) -> int:
    try:
        size = int(digits, base)
    except ValueError:
        size = -1
    if size < 0:
        raise ServerFailed(f"{digits!r:.60} is no length of HTTP")
    return size
