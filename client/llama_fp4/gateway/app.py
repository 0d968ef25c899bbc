"""The ASGI application: which path is answered by what."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import AsyncIterator
from typing import Any

from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp

from llama_fp4.gateway.backend import Backend
from llama_fp4.gateway.docs import docs_page, openapi
from llama_fp4.gateway.errors import ApiError
from llama_fp4.gateway.exchange import Endpoint
from llama_fp4.gateway.gate import Gate, GatewayState
from llama_fp4.gateway.metrics import CONTENT_TYPE
from llama_fp4.gateway.openai_api.chat import answer_chat
from llama_fp4.gateway.openai_api.completions import answer_completion
from llama_fp4.gateway.openai_api.endpoints import Context
from llama_fp4.gateway.openai_api.responses import answer_response
from llama_fp4.gateway.openai_api.tokens import answer_detokenize, answer_tokenize
from llama_fp4.gateway.page import chat_page
from llama_fp4.gateway.settings import GatewaySettings

OWNER = "llama-fp4"
POSTS = {
    "/v1/chat/completions": answer_chat,
    "/v1/completions": answer_completion,
    "/v1/responses": answer_response,
    "/tokenize": answer_tokenize,
    "/detokenize": answer_detokenize,
}


def make_app(settings: GatewaySettings, state: GatewayState) -> ASGIApp:
    """The whole application. Its start connects to nothing: Triton may come later."""
    contexts: list[Context] = []  # one, made in the event loop

    @contextlib.asynccontextmanager
    async def lifespan(app: object) -> AsyncIterator[None]:
        backend = Backend(settings)
        contexts.append(Context(settings, state, backend))
        yield
        await backend.close()

    get = Gets(settings, state, contexts)
    routes = [
        Route("/", get.page),
        Route("/docs", get.docs),
        Route("/openapi.json", get.openapi),
        Route("/health", get.ready),
        Route("/v1/health/live", get.live),
        Route("/v1/health/ready", get.ready),
        Route("/metrics", get.metrics),
        Route("/v1/metrics", get.metrics),
        Route("/v1/models", get.models),
        Route("/v1/models/{name:path}", get.model),
    ]
    for path, answer in POSTS.items():
        answered = functools.partial(_in_context, answer, contexts)
        routes.append(Route(path, Endpoint(answered, settings), methods=["POST"]))
    gate: ASGIApp = Gate(Router(routes, lifespan=lifespan), settings, state)
    if settings.cors_origins:
        gate = CORSMiddleware(
            gate,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["x-request-id"],
        )
    return gate


async def _in_context(answer: Any, contexts: list[Context], call: Any) -> Response:
    response: Response = await answer(contexts[0], call)
    return response


class Gets:
    """The answers that generate nothing."""

    def __init__(
        self, settings: GatewaySettings, state: GatewayState, contexts: list[Context]
    ) -> None:
        self._settings, self._state, self._contexts = settings, state, contexts

    async def page(self, request: Request) -> Response:
        """The chat page."""
        body, headers = chat_page()
        return Response(body, headers=headers)

    async def docs(self, request: Request) -> Response:
        """Every path and field."""
        return HTMLResponse(docs_page())

    async def openapi(self, request: Request) -> Response:
        """The same for programs."""
        return JSONResponse(openapi())

    async def live(self, request: Request) -> Response:
        """The gateway runs."""
        return JSONResponse({"object": "health.response", "message": "live", "status": "live"})

    async def ready(self, request: Request) -> Response:
        """The gateway takes requests, and the model behind it can be called."""
        if self._state.draining:
            raise ApiError(503, "the server is shutting down", code="shutting_down")
        if not await self._contexts[0].backend.is_ready():
            raise ApiError(503, "the model behind this gateway is not ready", code="not_ready")
        return JSONResponse({"object": "health.response", "message": "ready", "status": "ready"})

    async def metrics(self, request: Request) -> Response:
        """Triton's and the gateway's."""
        triton = await self._contexts[0].backend.metrics()
        data = self._state.metrics.merged(triton)
        return Response(data, headers={"content-type": CONTENT_TYPE})

    async def models(self, request: Request) -> Response:
        """The one model, under each of its names."""
        models = [_model(name) for name in self._settings.served_names]
        return JSONResponse({"object": "list", "data": models})

    async def model(self, request: Request) -> Response:
        """One name of it."""
        name = request.path_params["name"]
        self._contexts[0].check_model(name)
        return JSONResponse(_model(name))


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": OWNER}
