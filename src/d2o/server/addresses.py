"""What a server answers to, as one table: its routes and its OpenAPI document are both made from it."""

from collections.abc import Awaitable, Callable, Container, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic.json_schema import models_json_schema
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

import d2o

from .query import Query

JSON = "application/json"
ERROR = {"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]}


@dataclass(frozen=True)
class Address:
    """A path: what it answers, as media types, to which methods, and the `query` that it reads.

    A GET says a query in the address, a POST as JSON.
    """

    path: str
    answer: Callable[[Request], Awaitable[Response]]
    summary: str
    media: Sequence[str] = (JSON,)
    methods: Sequence[str] = ("GET",)
    query: type[Query] | None = None

    def route(self) -> Route:
        return Route(self.path, self.answer, methods=[*self.methods])


def describe_addresses(
    addresses: Sequence[Address], title: str, description: str, free: Container[str] | None = None
) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of a server's addresses; `free` ones need no token, None: nothing does."""
    asked = [(address.query, "validation") for address in addresses if address.query]
    _, found = models_json_schema(asked, ref_template="#/components/schemas/{model}")  # type: ignore[arg-type]
    components: dict[str, Any] = {"schemas": {**found.get("$defs", {}), "Error": ERROR}}
    document = {
        "openapi": "3.1.0",
        "info": {"title": title, "description": description, "version": d2o.__version__},
        "paths": {
            address.path: {
                method.lower(): describe(address, method, components["schemas"])
                | ({"security": []} if free is not None and address.path in free else {})
                for method in address.methods
            }
            for address in addresses
        },
        "components": components,
    }
    if free is not None:
        components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"token": []}]
    return document


def describe(address: Address, method: str, schemas: dict[str, Any]) -> dict[str, Any]:
    """Return what is to be known of a method of an address."""
    refusal = {"description": "A refusal in one sentence.", "content": {JSON: {"schema": ref("Error")}}}
    answers = {"200": {"description": address.summary, "content": {kind: {} for kind in address.media}}}
    found = {"summary": address.summary, "responses": {**answers, "default": refusal}}
    if address.query is None:
        return found
    name = address.query.__name__
    if method == "POST":
        return {**found, "requestBody": {"required": True, "content": {JSON: {"schema": ref(name)}}}}
    schema = schemas[name]
    required = schema.get("required", ())
    parameters = [
        {"name": key, "in": "query", "required": key in required, "schema": in_an_address(value)}
        for key, value in schema["properties"].items()
    ]
    return {**found, "parameters": parameters}


def in_an_address(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a value that an address can say: one, as each key is named once, and not null."""
    kinds = [kind for kind in schema.get("anyOf", ()) if kind.get("type") not in ("array", "null")]
    rest = {key: value for key, value in schema.items() if key != "anyOf" and (key, value) != ("default", None)}
    return {**rest, "anyOf": kinds} if kinds else rest


def ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}
