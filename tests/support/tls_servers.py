"""Certificates of a test's own authorities, and a proxy that terminates TLS for a server."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
from pathlib import Path


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
    """Terminates TLS, with the client's certificate required, and passes the bytes on."""

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
