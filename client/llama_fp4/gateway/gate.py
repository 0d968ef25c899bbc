"""What every request passes: its id, its key, the limits, the drain, the log and the metrics."""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from dataclasses import dataclass, field

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llama_fp4.gateway.api_keys import ApiKeys
from llama_fp4.gateway.errors import ApiError
from llama_fp4.gateway.exchange import ClientLeft, shown_error
from llama_fp4.gateway.metrics import Metrics
from llama_fp4.gateway.settings import GatewaySettings

LOG = logging.getLogger("llama_fp4.gateway.requests")
REQUEST_ID = re.compile(r"[!-~]{1,128}")
GUARDED = ("/v1/", "/tokenize", "/detokenize")
OPEN = ("/v1/health/", "/v1/metrics")
LEFT = 499  # nginx's status for a client that has gone


@dataclass
class GatewayState:
    """What changes while one worker serves."""

    draining: bool = False
    active: int = 0  # requests for answers, in flight
    metrics: Metrics = field(default_factory=Metrics)


class Gate:
    """ASGI middleware around everything."""

    def __init__(self, app: ASGIApp, settings: GatewaySettings, state: GatewayState) -> None:
        self._app, self._settings, self._state = app, settings, state
        self._keys = ApiKeys(settings.api_keys) if settings.api_keys else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, state = time.perf_counter(), scope.setdefault("state", {})
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        state["request_id"] = given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        passed = _Passed(send, state["request_id"], self._state)
        counted = scope["method"] == "POST"
        self._state.active += counted
        self._state.metrics.active.inc(counted)
        try:
            self._admit(scope, headers)
            scope["app"] = self._app  # so that the router raises its 404 and 405
            await self._app(scope, receive, passed)
        except ClientLeft:
            passed.status = LEFT
        except asyncio.CancelledError:
            passed.status = LEFT
            raise
        except Exception as error:
            await self._refuse(error, passed, scope, receive)
        finally:
            self._state.active -= counted
            self._state.metrics.active.dec(counted)
            self._note(scope, passed.status, time.perf_counter() - started)

    def _admit(self, scope: Scope, headers: Headers) -> None:
        path = scope["path"]
        guarded = path.startswith(GUARDED) and not path.startswith(OPEN)
        if self._keys is not None and guarded and scope["method"] != "OPTIONS":
            kind, _, key = headers.get("authorization", "").partition(" ")
            name = self._keys.name_of(key.strip()) if kind.lower() == "bearer" else None
            if name is None:
                what = "is not one that this server knows" if key else "is missing"
                raise ApiError(401, f"the API key {what}", code="invalid_api_key")
        if scope["method"] != "POST":
            return
        if self._state.draining:
            raise ApiError(503, "the server is shutting down", code="shutting_down")
        most = self._settings.max_requests
        if self._state.active > most:
            message = f"{most} requests are in flight, which is this gateway's limit"
            raise ApiError(429, message, code="rate_limit_exceeded")

    async def _refuse(
        self, error: Exception, passed: _Passed, scope: Scope, receive: Receive
    ) -> None:
        shown = _unknown(scope, error) if isinstance(error, HTTPException) else shown_error(error)
        if passed.status:  # too late for an answer: the connection is closed
            raise error
        response = Response(shown.body, shown.status, shown.headers, "application/json")
        await response(scope, receive, passed)

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        route = scope.get("route")
        path = getattr(route, "path", "other")
        self._state.metrics.requests.labels(path, status).inc()
        self._state.metrics.seconds.observe(seconds)
        if self._settings.logs_requests and scope["method"] == "POST":
            failed = scope["state"].get("failed", "")
            LOG.info(
                "%s %s %d %s %.0f ms%s",
                scope["method"],
                path,
                status,
                scope["state"]["request_id"],
                seconds * 1e3,
                f" ({failed})" if failed else "",
            )


def _unknown(scope: Scope, error: HTTPException) -> ApiError:
    """The router's 404 and 405."""
    asked = f"{scope['method']} {scope['path'][:100]!r}"
    message = f"{asked} is not served; GET /docs lists what is"
    allow = (error.headers or {}).get("Allow")
    return ApiError(error.status_code, message, code="unknown_url", allow=allow)


class _Passed:
    """`send` with the request's id in the head, and the status kept."""

    def __init__(self, send: Send, request_id: str, state: GatewayState) -> None:
        self._send, self._id, self._state = send, request_id, state
        self.status = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["x-request-id"] = self._id
            if self._state.draining:
                headers["connection"] = "close"
        await self._send(message)
