"""gRPC for `Client`: one RPC for each request, all over one connection."""

from __future__ import annotations

import contextlib
import os
from typing import Any

import grpc
from tritonclient.grpc import service_pb2 as pb

from llama_fp4.answers import Chunk, Health, ModelMetadata, ModelState, ServerInfo
from llama_fp4.errors import ClientClosed, LlamaError, error_of_message
from llama_fp4.model_contract import Request
from llama_fp4.settings import Connection
from llama_fp4.transports import grpc_messages as wire


class GrpcTransport:
    """Connects at its first call."""

    def __init__(self, connection: Connection) -> None:
        credentials = wire.credentials(connection)
        options = wire.options(connection)
        self._channel = (
            grpc.secure_channel(connection.address, credentials, options)
            if credentials
            else grpc.insecure_channel(connection.address, options)
        )
        self._headers = connection.headers
        self._process = os.getpid()
        # A stream of a single message: as a unary call it needs no thread to send messages, which
        # tritonclient starts for each request.
        self._infer = self._channel.unary_stream(
            wire.SERVICE + "ModelStreamInfer",
            pb.ModelInferRequest.SerializeToString,
            pb.ModelStreamInferResponse.FromString,
        )

    def start(self, request: Request, timeout_s: float | None) -> GrpcCall:
        wire.check_process(self._process)
        message = wire.infer_request(request)
        try:
            rpc = self._infer(message, timeout_s, self._headers)
        except ValueError as error:
            raise ClientClosed("the client was closed", request_id=request.id) from error
        return GrpcCall(rpc, request)

    def stop(self, request_id: str, timeout_s: float) -> None:
        with contextlib.suppress(grpc.RpcError, ValueError):  # ValueError: the channel is closed
            stop = wire.stop_request(request_id)
            for _ in self._infer(stop, timeout_s, self._headers):
                pass

    def metadata(self, model: str, timeout_s: float | None) -> ModelMetadata:
        return wire.metadata_of(
            self._ask("ModelMetadata", pb.ModelMetadataRequest(name=model), timeout_s)
        )

    def decoupled(self, model: str, timeout_s: float | None) -> bool:
        asked = pb.ModelConfigRequest(name=model)
        return wire.is_decoupled(self._ask("ModelConfig", asked, timeout_s))

    def health(self, model: str, timeout_s: float | None) -> Health:
        live = self._ask("ServerLive", pb.ServerLiveRequest(), timeout_s).live
        ready = self._ask("ServerReady", pb.ServerReadyRequest(), timeout_s).ready
        asked = pb.ModelReadyRequest(name=model)
        return Health(live, ready, self._ask("ModelReady", asked, timeout_s).ready)

    def server(self, timeout_s: float | None) -> ServerInfo:
        said = self._ask("ServerMetadata", pb.ServerMetadataRequest(), timeout_s)
        return ServerInfo(said.name, said.version)

    def models(self, timeout_s: float | None) -> list[ModelState]:
        index = pb.RepositoryIndexRequest()
        return wire.states_of(self._ask("RepositoryIndex", index, timeout_s))

    def statistics(self, model: str, timeout_s: float | None) -> dict[str, Any]:
        asked = pb.ModelStatisticsRequest(name=model)
        return wire.as_dict(self._ask("ModelStatistics", asked, timeout_s))

    def close(self) -> None:
        self._channel.close()

    def _ask(self, method: str, request: Any, timeout_s: float | None) -> Any:
        wire.check_process(self._process)
        answer = getattr(pb, f"{method}Response")
        call = self._channel.unary_unary(
            wire.SERVICE + method, type(request).SerializeToString, answer.FromString
        )
        try:
            return call(request, timeout_s, self._headers)
        except grpc.RpcError as error:
            raise wire.error_of_rpc(error.code().name, error.details() or "") from error
        except ValueError as error:
            raise ClientClosed("the client was closed") from error


class GrpcCall:
    """One RPC."""

    __slots__ = ("_id", "_next", "_reader", "_rpc")

    def __init__(self, rpc: Any, request: Request) -> None:
        self._rpc = rpc
        self._next = rpc.__next__
        self._id = request.id
        self._reader = wire.Reader(request.cumulative)

    def read(self) -> Chunk | None:
        try:
            message = self._next()
            if message.error_message:
                raise self._failure(message)
            chunk = self._reader.read(message.infer_response)
            if chunk.final:
                self._drain()
        except StopIteration:
            return None
        except grpc.RpcError as error:
            raise wire.error_of_rpc(error.code().name, error.details() or "", self._id) from error
        return chunk

    def cancel(self) -> None:
        self._rpc.cancel()

    def _failure(self, message: Any) -> LlamaError:
        self._drain()
        answered = message.infer_response.id or self._id
        return error_of_message(message.error_message, answered)

    def _drain(self) -> None:
        # The last chunk is returned only after the RPC has ended: a cancel that crosses the end of
        # an RPC, as when the caller leaves the loop there, makes Triton 2.51 keep it forever.
        for _ in self._rpc:
            pass
