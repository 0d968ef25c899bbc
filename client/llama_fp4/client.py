"""The synchronous client: sends a prompt or messages, returns text as the server generates it."""

from __future__ import annotations

import sys
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, overload

from llama_fp4.answers import Completion, Health, ModelMetadata, ModelState, ServerInfo
from llama_fp4.errors import (
    ClientClosed,
    InvalidRequest,
    LlamaError,
    TotalTimeout,
    UnknownModel,
    UnknownOption,
    must_be,
)
from llama_fp4.model_contract import Model, Prompt, Request
from llama_fp4.request_state import RequestState
from llama_fp4.sampling import SamplingParams, merged_params, plain
from llama_fp4.settings import Keepalive, Retries, Timeouts, Tls, limit_of
from llama_fp4.stream import Stream
from llama_fp4.transports.base import Transport
from llama_fp4.transports.choose import open_transport
from llama_fp4.watchdog import Watchdog

Messages = Sequence[Mapping[str, Any]]
ASK_S = 10.0


class Client:
    """A connection to one server, for any number of concurrent requests and threads.

    `url` is `host:port` of the gRPC endpoint, or `http://host:port`; `grpcs://`, `https://` or
    `tls` encrypt. `headers` are sent with every call. `token_ids`: whether chunks carry token ids,
    which costs about a microsecond each. Nothing is sent before the first call. A client belongs to
    the process that made it. Proxies in the environment are ignored. Under gevent, patch, then call
    `grpc.experimental.gevent.init_gevent()`, then make clients.
    """

    def __init__(
        self,
        url: str = "127.0.0.1:8001",
        model: str = "ensemble",
        *,
        transport: Transport | None = None,
        timeouts: Timeouts = Timeouts(),  # noqa: B008 -- frozen
        retries: Retries = Retries(),  # noqa: B008
        tls: Tls | None = None,
        headers: Mapping[str, str] | None = None,
        keepalive: Keepalive = Keepalive(),  # noqa: B008
        token_ids: bool = True,
    ) -> None:
        self._transport: Transport = transport or open_transport(
            url, False, tls, headers, keepalive, timeouts.connect
        )
        self._name, self._timeouts, self._retries = model, timeouts, retries
        self._token_ids = token_ids
        self._watchdog = Watchdog()
        self._lock = threading.Lock()
        self._model: Model | None = None
        self._closed = False
        self._patched = patched()

    def stream(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        *,
        request_id: str | None = None,
        timeouts: Timeouts | None = None,
        stream: bool | None = None,
        **options: Any,
    ) -> Stream:
        """Generate from a raw prompt (a string) or from messages (each with role and content).

        `options` are fields of `SamplingParams` and replace those of `params`. With `stream=False`
        one chunk is the whole answer. By default the answer is streamed if the model can; a model
        that gives one response (as in a `--unary` repository) refuses `stream=True`. Raises
        `LlamaError`, here or on reading.
        """
        merged = merged_params(params, options)
        limits, identity = timeouts or self._timeouts, checked_id(request_id)
        self._check_open()
        state = RequestState(identity, limits, self._retries, time.perf_counter())
        request = self._request(prompt, merged, state, stream)
        return Stream(self._transport, self._watchdog, request, state, self._refused)

    def generate(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        *,
        request_id: str | None = None,
        timeouts: Timeouts | None = None,
        **options: Any,
    ) -> Completion:
        """The whole answer; arguments as for `stream`.

        It comes as one response, unless `timeouts` limit the first token or the gap between tokens.
        """
        limits = timeouts or self._timeouts
        limited = limits.first_token is not None or limits.between_tokens is not None
        streamed = None if limited else False
        with self.stream(
            prompt, params, request_id=request_id, timeouts=limits, stream=streamed, **options
        ) as stream:
            for _ in stream:
                pass
        return stream.completion

    @overload
    def chat(
        self,
        messages: Messages,
        params: SamplingParams | None = None,
        *,
        stream: Literal[False] = False,
        **more: Any,
    ) -> Completion: ...

    @overload
    def chat(
        self,
        messages: Messages,
        params: SamplingParams | None = None,
        *,
        stream: Literal[True],
        **more: Any,
    ) -> Stream: ...

    def chat(
        self,
        messages: Messages,
        params: SamplingParams | None = None,
        *,
        stream: bool = False,
        **more: Any,
    ) -> Completion | Stream:
        """The answer to a conversation: messages in OpenAI's form, {"role": ..., "content": ...}.

        Further arguments as for `stream`. Raises `UnknownOption` where the model takes no messages.
        """
        if stream:
            return self.stream(messages, params, stream=True, **more)
        return self.generate(messages, params, **more)

    def is_ready(self, timeout_s: float = 1.0) -> bool:
        """Whether the server answers and the model can be called."""
        limit_of(timeout_s)
        try:
            return self.health(timeout_s).model_ready
        except LlamaError:
            return False

    def health(self, timeout_s: float | None = ASK_S) -> Health:
        """Whether server and model are ready. Raises `LlamaError` if the server does not answer."""
        self._check_open()
        return self._transport.health(self._name, limit_of(timeout_s))

    def metadata(self, timeout_s: float | None = ASK_S) -> ModelMetadata:
        """The model's inputs and outputs."""
        self._check_open()
        return self._transport.metadata(self._name, limit_of(timeout_s))

    def server(self, timeout_s: float | None = ASK_S) -> ServerInfo:
        """The server's name and version."""
        self._check_open()
        return self._transport.server(limit_of(timeout_s))

    def models(self, timeout_s: float | None = ASK_S) -> list[ModelState]:
        """The models in the server's repository, and the state of each."""
        self._check_open()
        return self._transport.models(limit_of(timeout_s))

    def statistics(self, timeout_s: float | None = ASK_S) -> dict[str, Any]:
        """Triton's statistics of the model, as in the JSON of its protocol."""
        self._check_open()
        return self._transport.statistics(self._name, limit_of(timeout_s))

    def close(self) -> None:
        """Close the connection, any number of times; running streams end with `ClientClosed`."""
        self._closed = True
        self._watchdog.close()
        self._transport.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _check_open(self) -> None:
        if self._closed:
            raise ClientClosed("the client was closed")
        if self._patched != patched():  # its locks are threads', and would block every greenlet
            raise InvalidRequest(
                "the client was made before gevent's monkey.patch_all(): make it after"
            )

    def _request(
        self, prompt: Prompt, params: SamplingParams, state: RequestState, stream: bool | None
    ) -> Request:
        known = self._model
        model = known or self._fetch(state, known)
        try:
            streamed = self._streamed(model, state, stream)
            return model.request(prompt, params, state.request_id, streamed, self._token_ids)
        except UnknownOption:
            if known is None:
                raise
        # The server may have loaded another model since.
        model = self._fetch(state, known)
        streamed = self._streamed(model, state, stream)
        return model.request(prompt, params, state.request_id, streamed, self._token_ids)

    def _streamed(self, model: Model, state: RequestState, stream: bool | None) -> bool:
        """Whether to ask for a response for each token: `stream`, or whether the model can."""
        if stream is None and model.decoupled is None:
            try:
                model.decoupled = self._transport.decoupled(self._name, state.ask_limit_s())
            except LlamaError:
                return True  # a proxy may hide the configuration: then the model itself refuses
        return bool(model.decoupled if stream is None else stream)

    def _refused(self, error: LlamaError) -> None:
        """Forget the metadata if the server now has another model."""
        if isinstance(error, (UnknownOption, UnknownModel)):
            self._model = None

    def _fetch(self, state: RequestState, known: Model | None) -> Model:
        attempt = 1
        while True:
            seconds = state.ask_limit_s()
            try:
                return self._ask(seconds, known)
            except LlamaError as error:
                shown = state.ask_error(error, seconds)
                if not shown.retryable or attempt == self._retries.attempts:
                    raise shown from (None if shown is error else error)
            attempt += 1
            time.sleep(self._retries.seconds_before(attempt))

    def _ask(self, seconds: float | None, known: Model | None) -> Model:
        # One thread asks and the others wait for it.
        if not self._lock.acquire(timeout=-1 if seconds is None else seconds):
            raise TotalTimeout("the server did not answer in time")
        try:
            if self._model is None or self._model is known:
                self._model = Model(self._transport.metadata(self._name, seconds))
            return self._model
        finally:
            self._lock.release()


def patched() -> bool:
    """Whether gevent has replaced `threading`."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched("threading"))


def checked_id(request_id: str | None) -> str:
    """The request's id, a random one if there is none. Raises `InvalidRequest`."""
    request_id = plain(request_id)
    if request_id is None or request_id == "":
        return uuid.uuid4().hex
    if isinstance(request_id, str) and request_id.isprintable():
        return request_id
    raise must_be("request_id", "a string of printable characters", request_id)
