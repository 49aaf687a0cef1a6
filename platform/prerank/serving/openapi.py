"""The OpenAPI 3.1 document of a deployment, from its routes, their models and its limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from prerank import __version__
from prerank.serving.answer_models import Problem
from prerank.serving.config import ServeConfig
from prerank.serving.lane import MAX_BODY
from prerank.serving.problems import MEANINGS, PROBLEM
from prerank.serving.routes import Content, Route

_REF = "#/components/schemas/"
_LIMITS = ("maximum", "maxItems")
"""Keywords whose value may name a key of the configuration."""
_TOKEN = {
    "type": "http",
    "scheme": "bearer",
    "description": "Where the deployment has tokens: one with the scope that the route names.",
}


def document(routes: Sequence[Route], config: ServeConfig) -> dict[str, Any]:
    """The document, as JSON values.

    Args:
        routes: that are described.
        config: whose limits the parsers enforce.
    """
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, config)
    models: list[tuple[type[BaseModel], JsonSchemaMode]] = [
        (model, "validation") for model in _models(routes)
    ]
    _, definitions = models_json_schema(models, ref_template=_REF + "{model}")
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Pre-ranking",
            "version": __version__,
            "description": "Ranks the candidates of a search with a user's history and the "
            "engagement of all users, and takes engagement events back.",
        },
        "paths": paths,
        "components": {
            "schemas": _limited(definitions["$defs"], config),
            "securitySchemes": {"token": _TOKEN},
        },
    }


def _models(routes: Sequence[Route]) -> list[type[BaseModel]]:
    """The models of all bodies, each once, in the routes' order."""
    bodies = [b for route in routes for of in (route.takes, route.answers) for b in of.values()]
    return list(dict.fromkeys([Problem, *(body for body in bodies if not isinstance(body, str))]))


def _operation(route: Route, config: ServeConfig) -> dict[str, Any]:
    found: dict[str, Any] = {
        "summary": route.summary,
        "operationId": route.name,
        # An empty requirement: without a token, where the deployment has none.
        "security": [{"token": [route.scope]}, {}] if route.scope else [],
        "parameters": [
            *_path_parameters(route),
            *_parameters(route.query, "query", config),
            *_parameters(route.header, "header", config),
        ],
        "responses": {
            "200": {"description": "The answer.", "content": _content(route.answers)},
            **{str(status): _refusal(status) for status in route.statuses},
        },
    }
    if route.takes:
        found["requestBody"] = {
            "required": True,
            "description": f"At most {MAX_BODY} bytes, within {config.body_seconds:g} s.",
            "content": _content(route.takes),
        }
    return found


def _refusal(status: int) -> dict[str, Any]:
    return {
        "description": MEANINGS[status],
        "content": {PROBLEM: {"schema": {"$ref": _REF + Problem.__name__}}},
    }


def _content(of: Content) -> dict[str, Any]:
    """Media types with the schema of their JSON, or bytes in words."""
    return {
        kind: {"schema": {"description": body, "contentMediaType": kind}}
        if isinstance(body, str)
        else {"schema": {"$ref": _REF + body.__name__}}
        for kind, body in of.items()
    }


def _path_parameters(route: Route) -> list[dict[str, Any]]:
    if "{" not in route.path:
        return []
    return [
        {
            "name": "id",
            "in": "path",
            "required": True,
            "description": "The item's id as text; `/` may stand in it.",
            "schema": {"type": "string", "minLength": 1},
        }
    ]


def _parameters(
    model: type[BaseModel] | None, place: str, config: ServeConfig
) -> list[dict[str, Any]]:
    """The fields of a model as parameters; none is needed where another form of body is sent."""
    if model is None:
        return []
    schema = _limited(model.model_json_schema(), config)
    return [
        {
            "name": name,
            "in": place,
            "required": False,
            "description": " ".join(filter(None, [model.__doc__, of.pop("description", "")])),
            "schema": of,
        }
        for name, of in schema["properties"].items()
    ]


def _limited(schema: Any, config: ServeConfig) -> Any:
    """``schema`` with the configuration's limits in place of their names."""
    if isinstance(schema, Mapping):
        return {
            key: getattr(config, value)
            if key in _LIMITS and isinstance(value, str)
            else _limited(value, config)
            for key, value in schema.items()
        }
    if isinstance(schema, list):
        return [_limited(each, config) for each in schema]
    return schema
