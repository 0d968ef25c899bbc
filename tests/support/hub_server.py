"""A hub on 127.0.0.1 with the part of the Hugging Face protocol that a fetch needs.

The model API with the files' sizes and hashes, `resolve` with redirects of large files to another
host name, ranges, the error headers of gated and missing repositories, renamed repositories; and
the ways in which a transfer goes wrong. The huggingface_hub that talks to it is the real one.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

LARGE_FILES = re.compile(r".*\.safetensors|tokenizer\.json")
CHUNK_BYTES = 2**16


@dataclass
class Fault:
    """What goes wrong with each request for a file's bytes."""

    send_only: int = 0  # then close the connection
    stall_after: int = 0  # then send nothing more
    status: int = 0  # instead of the bytes
    content: bytes = b""  # instead of the file's


@dataclass
class Repository:
    """A repository's commits; each is a folder."""

    commits: dict[str, Path]
    main: str
    gated_status: int = 0  # the answer to requests for files
    missing_files: set[str] = field(default_factory=set)  # listed, but not there


@dataclass(frozen=True)
class Request:
    """A request to the hub."""

    method: str
    path: str
    begin: int  # of the requested range
    authorization: str
    host: str


class LocalHub:
    """The server's repositories, its faults and the requests that it got."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.renamed: dict[str, str] = {}
        self.faults: dict[str, Fault] = {}  # by file name
        self.api_status = 0  # the API's answer to everything
        self.api_error = ""  # the message of that answer
        self.api_page = b""  # a login page instead of the API's answer
        self.requests: list[Request] = []
        self.sent: dict[str, int] = {}  # file name -> bytes of content
        self.released = threading.Event()  # ends all stalls
        self.port = 0

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def downloads(self, name: str) -> list[int]:
        """Where each request for the bytes of a file began."""
        path = re.compile(rf"/(lfs/.*|.*/resolve/.*)/{re.escape(name)}")
        return [
            request.begin
            for request in self.requests
            if request.method == "GET" and path.fullmatch(request.path)
        ]

    def forget(self) -> None:
        """Forget all requests."""
        self.requests.clear()
        self.sent.clear()


@contextmanager
def serving(hub: LocalHub) -> Iterator[LocalHub]:
    """Serve until the block ends."""

    class Handler(_Handler):
        pass

    Handler.hub = hub
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.port = server.server_address[1]
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield hub
    finally:
        hub.released.set()
        server.shutdown()
        server.server_close()


def git_sha1(content: bytes) -> str:
    """git's name of a blob."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, read in chunks."""
    facts = path.stat()
    return _sha256(path, facts.st_size, facts.st_mtime_ns)


@functools.cache
def _sha256(path: Path, _size: int, _mtime_ns: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


def listed(folder: Path) -> list[dict[str, Any]]:
    """The files of a commit as the API shows them with `blobs`."""
    siblings = []
    for path in sorted(folder.rglob("*")):
        if not path.is_file():
            continue
        size = path.stat().st_size
        entry = {"rfilename": path.relative_to(folder).as_posix(), "size": size}
        if LARGE_FILES.fullmatch(path.name):
            sha256 = sha256_of(path)
            entry |= {"lfs": {"sha256": sha256, "size": size, "pointerSize": 134}}
            entry |= {"blobId": git_sha1(b"the pointer to " + sha256.encode())}
        else:
            entry |= {"blobId": git_sha1(path.read_bytes())}
        siblings.append(entry)
    return siblings


class _Handler(BaseHTTPRequestHandler):
    hub: LocalHub

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._route()

    def do_GET(self) -> None:
        self._route()

    def _route(self) -> None:
        path = urlsplit(self.path).path
        begin = re.fullmatch(r"bytes=(\d+)-.*", self.headers.get("Range", ""))
        self._begin = int(begin[1]) if begin else 0
        authorization = self.headers.get("Authorization", "")
        host = self.headers.get("Host", "")
        request = Request(self.command, path, self._begin, authorization, host)
        self.hub.requests.append(request)
        api = re.fullmatch(r"/api/models/([^/]+/[^/]+)/revision/(.+)", path)
        resolve = re.fullmatch(r"/(?:datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        stored = re.fullmatch(r"/lfs/([^/]+/[^/]+)/([^/]+)/(.+)", path)
        if api:
            self._api(api[1], api[2])
        elif resolve:
            self._resolve(resolve[1], resolve[2], resolve[3])
        elif stored:
            self._content(self._path(stored[1], stored[2], stored[3]))
        else:
            self._answer(404)

    def _api(self, name: str, revision: str) -> None:
        if self.hub.api_status:
            return self._answer(self.hub.api_status, {"X-Error-Message": self.hub.api_error})
        if self.hub.api_page:
            return self._answer(200, {"Content-Type": "text/html"}, self.hub.api_page)
        if name in self.hub.renamed:
            target = self.hub.endpoint + self.path.replace(name, self.hub.renamed[name])
            return self._answer(307, {"Location": target})
        repository = self.hub.repositories.get(name)
        if repository is None:
            return self._answer(401, {"X-Error-Code": "RepoNotFound"})
        commit = repository.main if revision == "main" else revision
        if commit not in repository.commits:
            return self._answer(404, {"X-Error-Code": "RevisionNotFound"})
        siblings = listed(repository.commits[commit])
        siblings += [{"rfilename": lost, "size": 1, "blobId": "0" * 40}
                     for lost in repository.missing_files]  # fmt: skip
        document = {"_id": "1", "id": name, "modelId": name, "sha": commit, "siblings": siblings,
                    "private": False, "tags": [], "downloads": 0, "likes": 0}  # fmt: skip
        body = json.dumps(document).encode()
        return self._answer(200, {"Content-Type": "application/json"}, body)

    def _resolve(self, name: str, revision: str, file: str) -> None:
        if name in self.hub.renamed:
            target = self.path.replace(name, self.hub.renamed[name])
            return self._answer(307, {"Location": target})
        if name not in self.hub.repositories:
            return self._answer(401, {"X-Error-Code": "RepoNotFound"})
        repository = self.hub.repositories[name]
        commit = {"X-Repo-Commit": revision}
        if repository.gated_status:
            gated = {"X-Error-Code": "GatedRepo", **commit}
            return self._answer(repository.gated_status, gated)
        path = self._path(name, revision, file)
        if not path.is_file():
            return self._answer(404, {"X-Error-Code": "EntryNotFound", **commit})
        if not LARGE_FILES.fullmatch(path.name):
            etag = f'"{git_sha1(path.read_bytes())}"'
            return self._content(path, {"ETag": etag, **commit})
        # A signed address on another host, which must not get the token.
        location = f"http://localhost:{self.hub.port}/lfs/{name}/{revision}/{file}?Signature=secret"
        linked = {"X-Linked-Size": str(path.stat().st_size)}
        linked |= {"X-Linked-ETag": f'"{sha256_of(path)}"'}
        return self._answer(302, {"Location": location, **linked, **commit})

    def _path(self, name: str, revision: str, file: str) -> Path:
        return self.hub.repositories[name].commits[revision] / file

    def _content(self, path: Path, headers: dict[str, str] | None = None) -> None:
        fault = self.hub.faults.get(path.name, Fault())
        if fault.status and self.command == "GET":  # a HEAD would be retried for 23 s
            return self._answer(fault.status)
        content = io.BytesIO(fault.content) if fault.content else path.open("rb")
        with content:
            self._range(path.name, content, headers or {}, fault)
        return None

    def _range(self, name: str, content: BinaryIO, headers: dict[str, str], fault: Fault) -> None:
        size = content.seek(0, io.SEEK_END)
        if self._begin >= size and self._begin:
            return self._answer(416, {"Content-Range": f"bytes */{size}"})
        content.seek(self._begin)
        self.send_response(206 if self._begin else 200)
        for key, value in headers.items():
            self.send_header(key, value)
        if self._begin:
            self.send_header("Content-Range", f"bytes {self._begin}-{size - 1}/{size}")
        self.send_header("Content-Length", str(size - self._begin))
        self.end_headers()
        if self.command == "GET":
            self._send(name, content, fault)
        return None

    def _send(self, name: str, content: BinaryIO, fault: Fault) -> None:
        left = fault.send_only or fault.stall_after or sys.maxsize
        try:
            while chunk := content.read(min(CHUNK_BYTES, left)):
                self.wfile.write(chunk)
                self.hub.sent[name] = self.hub.sent.get(name, 0) + len(chunk)
                left -= len(chunk)
            if fault.stall_after:
                self.hub.released.wait()
        except OSError:
            pass  # the client was killed
        self.close_connection = True

    def _answer(
        self, status: int, headers: dict[str, str] | None = None, body: bytes = b""
    ) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)
