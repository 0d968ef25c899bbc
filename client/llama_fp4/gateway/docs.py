"""`/docs` and `/openapi.json`, made from the request models; the page asks nobody else."""

from __future__ import annotations

import functools
import html
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from llama_fp4.gateway.openai_api.chat_request import ChatRequest
from llama_fp4.gateway.openai_api.completion_request import CompletionRequest
from llama_fp4.gateway.openai_api.responses_request import ResponsesRequest
from llama_fp4.gateway.openai_api.tokens import DetokenizeRequest, TokenizeRequest

BODIES: dict[str, tuple[str, type[BaseModel]]] = {
    "/v1/chat/completions": ("Answer chat messages", ChatRequest),
    "/v1/completions": ("Complete raw prompts", CompletionRequest),
    "/v1/responses": ("Answer text or items; nothing is kept", ResponsesRequest),
    "/tokenize": ("Token ids of a prompt or messages", TokenizeRequest),
    "/detokenize": ("Text of token ids", DetokenizeRequest),
}
GETS = {
    "/v1/models": "The model, under each of its names",
    "/v1/models/{name}": "One name of it",
    "/health": "200 if the model can be called, else 503",
    "/v1/health/live": "200 while the gateway runs",
    "/v1/health/ready": "As /health",
    "/metrics": "Triton's metrics and the gateway's, for Prometheus",
    "/openapi.json": "This page for programs",
}
STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "td,th{text-align:left;padding:.15rem 1rem .15rem 0;vertical-align:top}"
    "code{font-family:ui-monospace,monospace}:root{color-scheme:light dark}"
)


@functools.cache
def openapi() -> dict[str, Any]:
    """OpenAPI 3.1."""
    kinds = [(kind, "validation") for _, kind in BODIES.values()]
    names, schemas = models_json_schema(
        kinds,  # type: ignore[arg-type]
        ref_template="#/components/schemas/{model}",
    )
    answers = {"200": {"description": "OK"}, "4XX": {"description": "A wrong request"}}
    paths: dict[str, Any] = {
        path: {"get": {"summary": text, "responses": answers}} for path, text in GETS.items()
    }
    for path, (text, kind) in BODIES.items():
        content = {"application/json": {"schema": names[kind, "validation"]}}
        body = {"required": True, "content": content}
        paths[path] = {"post": {"summary": text, "requestBody": body, "responses": answers}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "llama-fp4 gateway", "version": "1"},
        "paths": paths,
        "components": {"schemas": schemas.get("$defs", {})},
    }


@functools.cache
def docs_page() -> str:
    """Plain HTML."""
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><title>llama-fp4 gateway</title>",
        f"<meta name=viewport content='width=device-width'><style>{STYLE}</style>",
        "<h1>llama-fp4 gateway</h1><p>OpenAI's API. Fields that are not listed are refused.</p>",
    ]
    parts += [f"<p><code>GET {path}</code> {html.escape(text)}</p>" for path, text in GETS.items()]
    schemas = openapi()["components"]["schemas"]
    for path, (text, kind) in BODIES.items():
        parts.append(f"<h2><code>POST {path}</code></h2><p>{html.escape(text)}</p><table>")
        required = schemas[kind.__name__].get("required", [])
        for name, field in schemas[kind.__name__]["properties"].items():
            need = "required" if name in required else ""
            words = html.escape(f"{_kind(field)} {need} {field.get('description', '')}")
            parts.append(f"<tr><td><code>{name}</code><td>{words}")
        parts.append("</table>")
    return "\n".join(parts)


def _kind(field: dict[str, Any]) -> str:
    """`integer`, `string or array`, a model's name, or the only values."""
    if "anyOf" in field:
        kinds = [_kind(each) for each in field["anyOf"]]
        return " or ".join(kind for kind in kinds if kind != "null")
    if "$ref" in field:
        return str(field["$ref"].rpartition("/")[2])
    if "enum" in field:
        return "only " + " or ".join(map(repr, field["enum"]))
    return str(field.get("type", "any"))
