"""TLS and mutual TLS: tritonserver's own for gRPC, a proxy before it for HTTP."""

from __future__ import annotations

import asyncio
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
from serving.child_server import Ports

from tests.support.processes import eventually
from tests.support.tls_servers import TlsProxy, certificates, openssl
from tests.support.upstream_server import upstream_server

WORDS = "one two three four"
WIRES = ("grpcs", "https")


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
    bundle = "# Raíz, as in many bundles\n".encode() + (mutual_tls[1] / "ca.pem").read_bytes()
    tls = trusted(mutual_tls[1], ca=bundle)
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
def test_certificates_that_are_not_trusted(
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


def test_files_that_are_not_pem(mutual_tls: tuple[Ports, Path]) -> None:
    folder = mutual_tls[1]
    openssl(folder, "ec", "-in", "client.key", "-aes128", "-passout", "pass:secret",
            "-out", "locked.key")  # fmt: skip
    for tls, words in (
        (Tls(ca=b"nonsense"), "ca must be PEM"),
        (Tls(ca="é".encode()), "ca must be PEM"),
        (trusted(folder, cert=folder / "names"), "cert or key must be PEM"),
        (trusted(folder, key=folder / "nowhere"), "cert or key must be PEM"),
        (trusted(folder, key=folder / "locked.key"), "without a password"),
        (trusted(folder, key=b"bytes"), "must be paths over HTTP"),
    ):
        with pytest.raises(InvalidRequest, match=words):
            Client("https://inside:1", tls=tls)
