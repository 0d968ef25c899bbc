"""gRPC for `AsyncClient`: as `grpc_sync`, in an event loop."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import Any

import grpc
import grpc.aio
from tritonclient.grpc import service_pb2 as pb

from llama_fp4.answers import Chunk, Health, ModelMetadata, ModelState, ServerInfo
from llama_fp4.errors import Cancelled, ClientClosed, LlamaError, error_of_message
from llama_fp4.model_contract import Request
from llama_fp4.settings import Connection
from llama_fp4.transports import grpc_messages as wire

EOF = grpc.aio.EOF


class GrpcAioTransport:
    """Belongs to the event loop in which it is made."""

    def __init__(self, connection: Connection) -> None:
        credentials = wire.credentials(connection)
        options = wire.options(connection)
        self._channel = (
            grpc.aio.secure_channel(connection.address, credentials, options)
            if credentials
            else grpc.aio.insecure_channel(connection.address, options)
        )
        self._headers = connection.headers
        self._process = os.getpid()
        self.closed = False
        self._infer = self._channel.unary_stream(
            wire.SERVICE + "ModelStreamInfer",
            pb.ModelInferRequest.SerializeToString,
            pb.ModelStreamInferResponse.FromString,
        )

    async def start(self, request: Request, timeout_s: float | None) -> GrpcAioCall:
        wire.check_process(self._process)
        message = wire.infer_request(request)
        self._check_open(request.id)
        rpc = self._infer(message, timeout=timeout_s, metadata=self._headers)
        return GrpcAioCall(self, rpc, request)

    async def stop(self, request_id: str, timeout_s: float) -> None:
        if self.closed:
            return
        stop = wire.stop_request(request_id)
        with contextlib.suppress(grpc.RpcError):
            async for _ in self._infer(stop, timeout=timeout_s, metadata=self._headers):
                pass

    async def infer(self, request: Request, timeout_s: float | None) -> dict[str, bytes]:
        """The raw outputs, by name, of a model that gives one response. Raises `LlamaError`."""
        return wire.outputs_of(
            await self._ask("ModelInfer", wire.infer_request(request), timeout_s)
        )

    async def metadata(self, model: str, timeout_s: float | None) -> ModelMetadata:
        asked = pb.ModelMetadataRequest(name=model)
        return wire.metadata_of(await self._ask("ModelMetadata", asked, timeout_s))

    async def decoupled(self, model: str, timeout_s: float | None) -> bool:
        asked = pb.ModelConfigRequest(name=model)
        return wire.is_decoupled(await self._ask("ModelConfig", asked, timeout_s))

    async def health(self, model: str, timeout_s: float | None) -> Health:
        live = await self._ask("ServerLive", pb.ServerLiveRequest(), timeout_s)
        ready = await self._ask("ServerReady", pb.ServerReadyRequest(), timeout_s)
        asked = pb.ModelReadyRequest(name=model)
        model_ready = await self._ask("ModelReady", asked, timeout_s)
        return Health(live.live, ready.ready, model_ready.ready)

    async def server(self, timeout_s: float | None) -> ServerInfo:
        said = await self._ask("ServerMetadata", pb.ServerMetadataRequest(), timeout_s)
        return ServerInfo(said.name, said.version)

    async def models(self, timeout_s: float | None) -> list[ModelState]:
        index = pb.RepositoryIndexRequest()
        return wire.states_of(await self._ask("RepositoryIndex", index, timeout_s))

    async def statistics(self, model: str, timeout_s: float | None) -> dict[str, Any]:
        asked = pb.ModelStatisticsRequest(name=model)
        return wire.as_dict(await self._ask("ModelStatistics", asked, timeout_s))

    async def close(self) -> None:
        self.closed = True
        await self._channel.close()

    def _check_open(self, request_id: str = "") -> None:
        if self.closed:
            raise ClientClosed("the client was closed", request_id=request_id)

    async def _ask(self, method: str, request: Any, timeout_s: float | None) -> Any:
        self._check_open()
        wire.check_process(self._process)
        answer = getattr(pb, f"{method}Response")
        call = self._channel.unary_unary(
            wire.SERVICE + method, type(request).SerializeToString, answer.FromString
        )
        try:
            return await call(request, timeout=timeout_s, metadata=self._headers)
        except grpc.aio.AioRpcError as error:
            raise wire.error_of_rpc(error.code().name, error.details() or "") from error


class GrpcAioCall:
    """One RPC."""

    __slots__ = ("_cancelled", "_id", "_owner", "_read", "_reader", "_rpc")

    def __init__(self, owner: GrpcAioTransport, rpc: Any, request: Request) -> None:
        self._owner, self._rpc = owner, rpc
        self._read = rpc.read
        self._id = request.id
        self._reader = wire.Reader(request.cumulative)
        self._cancelled = False

    async def read(self) -> Chunk | None:
        try:
            message = await self._read()
            if message is EOF:
                if self._owner.closed:  # grpc.aio may end a read this way, too
                    raise ClientClosed("the client was closed", request_id=self._id)
                return None
            if message.error_message:
                raise await self._failure(message)
            chunk = self._reader.read(message.infer_response)
            if chunk.final:
                await self._drain()
        except grpc.aio.AioRpcError as error:
            raise wire.error_of_rpc(error.code().name, error.details() or "", self._id) from error
        except BaseException as error:
            # grpc.aio raises asyncio's CancelledError also when `cancel` or the end of the channel
            # ended the RPC; the task that reads was not cancelled then.
            if isinstance(error, asyncio.CancelledError):
                if self._cancelled:
                    raise Cancelled("the call was cancelled", request_id=self._id) from error
                if self._owner.closed and self._rpc.done():
                    raise ClientClosed("the client was closed", request_id=self._id) from error
            raise
        return chunk

    def cancel(self) -> None:
        self._cancelled = True
        self._rpc.cancel()

    async def _failure(self, message: Any) -> LlamaError:
        await self._drain()
        answered = message.infer_response.id or self._id
        return error_of_message(message.error_message, answered)

    async def _drain(self) -> None:
        # As in grpc_sync: a cancel must not cross the end of the RPC.
        while await self._read() is not EOF:
            pass
