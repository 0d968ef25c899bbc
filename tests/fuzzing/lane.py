"""One connection each of gRPC and HTTP that sends requests and reads what comes back."""

from __future__ import annotations

import http.client
import json
import time
import zlib
from dataclasses import dataclass, field
from typing import Any

import grpc
from tritonclient.grpc import service_pb2

from tests.fuzzing.drafts import Case

DEADLINE_S = 20.0


@dataclass
class Outcome:
    """What came back."""

    code: str = "OK"  # gRPC's name, or the HTTP status
    message: str = ""
    responses: list[dict[str, Any]] = field(default_factory=list)  # outputs by name
    finals: int = 0  # responses with the final flag, and errors
    after_final: int = 0  # responses that came later
    broken: str = ""  # why it is no answer at all
    seconds: float = 0.0


class Lane:
    """One gRPC connection and one of HTTP; a request at a time."""

    def __init__(self, grpc_url: str, http_url: str) -> None:
        limits = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        self._channel = grpc.insecure_channel(
            grpc_url, [*limits, ("grpc.use_local_subchannel_pool", 1)]
        )
        service = "/inference.GRPCInferenceService"
        self._unary: Any = self._channel.unary_unary(
            f"{service}/ModelInfer",
            response_deserializer=service_pb2.ModelInferResponse.FromString,
        )
        self._stream: Any = self._channel.stream_stream(
            f"{service}/ModelStreamInfer",
            response_deserializer=service_pb2.ModelStreamInferResponse.FromString,
        )
        self._http_url = http_url
        self._http: http.client.HTTPConnection | None = None

    def close(self) -> None:
        """Close both connections."""
        self._channel.close()
        if self._http is not None:
            self._http.close()

    def ask(self, case: Case) -> Outcome:
        """Send a request and wait for all of its answer, or leave as the case says."""
        outcome = Outcome()
        start = time.monotonic()
        try:
            if case.entry.is_http:
                self._ask_http(case, outcome)
            elif case.entry.wire == "unary":
                self._ask_unary(case, outcome)
            else:
                self._ask_stream(case, outcome)
        except grpc.RpcError as error:
            outcome.code, outcome.message = error.code().name, error.details() or ""
            outcome.finals += 1
        outcome.seconds = time.monotonic() - start
        return outcome

    def _ask_unary(self, case: Case, outcome: Outcome) -> None:
        call = self._unary.future(case.payload, timeout=DEADLINE_S)
        if case.leave_after is not None:
            call.cancel()
            return
        outcome.responses.append(grpc_outputs(call.result()))
        outcome.finals = 1

    def _ask_stream(self, case: Case, outcome: Outcome) -> None:
        call = self._stream(iter([case.payload]), timeout=DEADLINE_S)
        for count, response in enumerate(call):
            if count == case.leave_after:
                call.cancel()
                return
            outcome.after_final += outcome.finals
            if response.error_message:
                outcome.code, outcome.message = "error_message", response.error_message
                outcome.finals += 1
            else:
                outcome.responses.append(grpc_outputs(response.infer_response))
                final = response.infer_response.parameters["triton_final_response"].bool_param
                outcome.finals += final

    def _ask_http(self, case: Case, outcome: Outcome) -> None:
        host, port = self._http_url.rsplit(":", 1)
        for kept in (self._http, None):  # a kept connection may have been closed meanwhile
            connection = kept or http.client.HTTPConnection(host, int(port), timeout=DEADLINE_S)
            self._http = connection
            try:
                connection.request(case.method, case.path, case.payload, case.headers)
                if case.leave_after == 0:
                    break
                read_http(case, connection.getresponse(), outcome)
                if case.leave_after is None:
                    return
                break
            except TimeoutError:
                outcome.code = "DEADLINE_EXCEEDED"
                break
            except (http.client.HTTPException, OSError) as error:
                connection.close()
                outcome.broken = f"{type(error).__name__}: {error}"
        connection.close()
        self._http = None


def read_http(case: Case, response: http.client.HTTPResponse, outcome: Outcome) -> None:
    if case.leave_after is not None:
        for _ in range(case.leave_after):
            response.readline()
        return
    outcome.broken = ""
    outcome.code = str(response.status) if response.status != 200 else "OK"
    body = response.read()
    encoding = response.headers.get("Content-Encoding")
    if encoding:
        body = zlib.decompress(body, 47)
    size = response.headers.get("Inference-Header-Content-Length")
    if size:
        body = body[: int(size)]
    documents = [body]
    if body.startswith(b"data: "):
        documents = [line.removeprefix(b"data: ") for line in body.rstrip().split(b"\n\n")]
    for text in documents:
        outcome.after_final += outcome.finals
        read_document(case, text, outcome)


def read_document(case: Case, text: bytes, outcome: Outcome) -> None:
    try:
        document = json.loads(text)
    except ValueError:
        outcome.message = repr(text)
        outcome.finals += 1
        return
    if not isinstance(document, dict):
        outcome.broken = f"the answer is {text[:99]!r}"
    elif "error" in document:
        outcome.code = "error" if outcome.code == "OK" else outcome.code
        outcome.message = str(document["error"])
        outcome.finals += 1
    elif case.entry.wire == "infer":
        outcome.responses.append(
            {item["name"]: (item["datatype"], item["shape"]) for item in document["outputs"]}
        )
        outcome.finals += 1
    else:
        outcome.responses.append(document)
        outcome.finals += case.entry.wire == "generate"


def grpc_outputs(response: Any) -> dict[str, Any]:
    return {output.name: (output.datatype, list(output.shape)) for output in response.outputs}
