"""TLS and mutual TLS on both wires: tritonserver's own for gRPC, a proxy before it for HTTP."""

from __future__ import annotations

import asyncio
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from llama_fp4 import (
    AsyncClient,
    Client,
    ConnectionFailed,
    InvalidRequest,
    LlamaError,
    Tls,
    TlsError,
)
from processes import eventually
from server_process import Ports
from upstream_server import upstream_server

WORDS = "one two three four"
WIRES = ("grpcs", "https")


def openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


def certificates(folder: Path) -> None:
    """Two authorities, and one's certificates for a server called `inside` and for a client."""
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    for name in ("ca", "other"):
        openssl(folder, "req", "-x509", *curve, "-keyout", f"{name}.key", "-out", f"{name}.pem",
                "-subj", f"/CN={name}")  # fmt: skip
    (folder / "names").write_text("subjectAltName=DNS:inside\n")
    for name in ("server", "client"):
        openssl(folder, "req", *curve[:5], "-keyout", f"{name}.key", "-out", f"{name}.csr",
                "-subj", f"/CN={name}")  # fmt: skip
        openssl(folder, "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key",
                "-CAcreateserial", "-days", "2", "-extfile", "names",
                "-out", f"{name}.pem")  # fmt: skip


class TlsProxy:
    """Ends TLS that asks for the client's certificate, and passes the bytes on."""

    def __init__(self, target: str, folder: Path) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._context = ssl.create_default_context(
            ssl.Purpose.CLIENT_AUTH, cafile=str(folder / "ca.pem")
        )
        self._context.verify_mode = ssl.CERT_REQUIRED
        self._context.load_cert_chain(folder / "server.pem", folder / "server.key")
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.open = 0
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                plain, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(plain,), daemon=True).start()

    def _serve(self, plain: socket.socket) -> None:
        try:
            inner = self._context.wrap_socket(plain, server_side=True)
        except OSError:
            plain.close()
            return
        with self._lock:
            self.open += 1
        with inner, socket.create_connection(self._target) as outer:
            back = threading.Thread(target=self._pass, args=(outer, inner))
            back.start()
            self._pass(inner, outer)
            outer.shutdown(socket.SHUT_RDWR)
            back.join()
        with self._lock:
            self.open -= 1

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
            if isinstance(sink, ssl.SSLSocket):
                sink.unwrap()
        except (OSError, ValueError):
            pass


@pytest.fixture(scope="module")
def mutual_tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Ports, Path]]:
    folder = tmp_path_factory.mktemp("tls")
    certificates(folder)
    more = [
        "--grpc-use-ssl=1",
        "--grpc-use-ssl-mutual=1",
        f"--grpc-server-cert={folder / 'server.pem'}",
        f"--grpc-server-key={folder / 'server.key'}",
        f"--grpc-root-cert={folder / 'ca.pem'}",
    ]
    with upstream_server(folder, more) as ports:
        yield ports, folder


@pytest.fixture(scope="module")
def proxy(mutual_tls: tuple[Ports, Path]) -> Iterator[TlsProxy]:
    ports, folder = mutual_tls
    proxy = TlsProxy(ports.url("http"), folder)
    yield proxy
    proxy.close()


@pytest.fixture
def urls(mutual_tls: tuple[Ports, Path], proxy: TlsProxy) -> dict[str, str]:
    return {"grpcs": f"grpcs://{mutual_tls[0].url('grpc')}", "https": f"https://{proxy.address}"}


def trusted(folder: Path, **more: Any) -> Tls:
    own = {"cert": folder / "client.pem", "key": folder / "client.key"}
    return Tls(**{"ca": folder / "ca.pem", "server_name": "inside", **own, **more})


@pytest.mark.parametrize("wire", WIRES)
def test_mutual_tls(mutual_tls: tuple[Ports, Path], urls: dict[str, str], wire: str) -> None:
    tls = trusted(mutual_tls[1], ca=(mutual_tls[1] / "ca.pem").read_bytes())
    with Client(urls[wire], tls=tls) as client:
        assert client.is_ready()
        assert client.generate(WORDS, max_tokens=1).text == "one "

    async def main() -> str:
        async with AsyncClient(urls[wire], tls=tls) as client:
            assert await client.is_ready()
            answer = await client.generate(WORDS, max_tokens=1)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return answer.text

    assert asyncio.run(main()) == "one "


@pytest.mark.parametrize("wire", WIRES)
def test_leaving_over_tls(mutual_tls: tuple[Ports, Path], proxy: TlsProxy, urls: dict[str, str],
                          wire: str) -> None:  # fmt: skip
    """`pause` answers until it is cancelled."""
    tls = trusted(mutual_tls[1])
    with Client(urls[wire], tls=tls) as client:
        for _ in range(5):  # the model has four instances
            stream = client.stream("one pause")
            next(stream)
            reader = threading.Thread(target=lambda one=stream: list(one))
            reader.start()
            stream.close()
            reader.join(30.0)
            assert not reader.is_alive()
        assert client.generate(WORDS, max_tokens=1).text == "one "

    async def main() -> None:
        async with AsyncClient(urls[wire], tls=tls) as client:
            for _ in range(5):
                async for _ in client.stream("one pause"):
                    break
            assert (await client.generate(WORDS, max_tokens=1)).text == "one "

    asyncio.run(main())
    eventually(lambda: proxy.open == 0, "every connection is closed")


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("asynchronous", [False, True])
def test_whom_not_to_trust(
    mutual_tls: tuple[Ports, Path], urls: dict[str, str], wire: str, asynchronous: bool
) -> None:
    folder = mutual_tls[1]

    async def ask_async(tls: Tls) -> None:
        async with AsyncClient(urls[wire], tls=tls) as client:
            await client.generate(WORDS)

    def ask_once(tls: Tls) -> None:
        if asynchronous:
            asyncio.run(ask_async(tls))
            return
        with Client(urls[wire], tls=tls) as client:
            client.generate(WORDS)

    def ask(tls: Tls) -> LlamaError:
        with pytest.raises(LlamaError) as caught:
            ask_once(tls)
        return caught.value

    assert type(ask(trusted(folder, ca=folder / "other.pem"))) is TlsError
    assert type(ask(trusted(folder, server_name="outside"))) is TlsError
    assert isinstance(ask(trusted(folder, cert=None, key=None)), ConnectionFailed)


def test_what_is_no_pem(mutual_tls: tuple[Ports, Path]) -> None:
    folder = mutual_tls[1]
    openssl(folder, "ec", "-in", "client.key", "-aes128", "-passout", "pass:secret",
            "-out", "locked.key")  # fmt: skip
    for tls, words in (
        (Tls(ca=b"nonsense"), "ca is no PEM"),
        (Tls(ca="é".encode()), "ca is no PEM"),
        (trusted(folder, cert=folder / "names"), "cert or key is no PEM"),
        (trusted(folder, key=folder / "nowhere"), "cert or key is no PEM"),
        (trusted(folder, key=folder / "locked.key"), "without a password"),
        (trusted(folder, key=b"bytes"), "allowed over HTTP are paths"),
    ):
        with pytest.raises(InvalidRequest, match=words):
            Client("https://inside:1", tls=tls)
