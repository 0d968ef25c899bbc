"""A client of the Llama FP4 ensemble, and of upstream's Triton models: text in, streamed text out.

    from llama_fp4 import Client, SamplingParams

    with Client("127.0.0.1:8001") as client:
        print(client.generate("The capital of France is", SamplingParams(max_tokens=8)).text)
        for chunk in client.chat([{"role": "user", "content": "Hello"}], stream=True):
            print(chunk.text, end="")

`errors` draws the tree of what can go wrong.
"""

from llama_fp4.answers import (
    Chunk,
    Completion,
    Health,
    ModelMetadata,
    ModelState,
    ServerInfo,
    TensorInfo,
    Timing,
)
from llama_fp4.async_client import AsyncClient
from llama_fp4.async_stream import AsyncStream
from llama_fp4.client import Client
from llama_fp4.errors import (
    BetweenTokensTimeout,
    Cancelled,
    ClientClosed,
    ConnectError,
    ConnectionFailed,
    ConnectionLost,
    ConnectTimeout,
    FirstTokenTimeout,
    IncompleteStream,
    InvalidRequest,
    LlamaError,
    RequestTimeout,
    ServerBusy,
    ServerFailed,
    TlsError,
    TotalTimeout,
    Unauthenticated,
    UnknownModel,
    UnknownOption,
    UnsupportedRequest,
)
from llama_fp4.model_contract import Request
from llama_fp4.sampling import SamplingParams
from llama_fp4.settings import Keepalive, Retries, Timeouts, Tls
from llama_fp4.stream import Stream
from llama_fp4.transports.base import AsyncFunctionTransport, FunctionTransport

__all__ = [
    "AsyncClient",
    "AsyncFunctionTransport",
    "AsyncStream",
    "BetweenTokensTimeout",
    "Cancelled",
    "Chunk",
    "Client",
    "ClientClosed",
    "Completion",
    "ConnectError",
    "ConnectTimeout",
    "ConnectionFailed",
    "ConnectionLost",
    "FirstTokenTimeout",
    "FunctionTransport",
    "Health",
    "IncompleteStream",
    "InvalidRequest",
    "Keepalive",
    "LlamaError",
    "ModelMetadata",
    "ModelState",
    "Request",
    "RequestTimeout",
    "Retries",
    "SamplingParams",
    "ServerBusy",
    "ServerFailed",
    "ServerInfo",
    "Stream",
    "TensorInfo",
    "Timeouts",
    "Timing",
    "Tls",
    "TlsError",
    "TotalTimeout",
    "Unauthenticated",
    "UnknownModel",
    "UnknownOption",
    "UnsupportedRequest",
]
