"""Refusals as problem details (RFC 9457): the one place where the body of an error is made."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import orjson
from starlette.responses import Response

from prerank.core.errors import PrerankError
from prerank.core.logs import HANDLING
from prerank.serving.fields import RequestError
from prerank.serving.lane import BusyError
from prerank.serving.overload import OverloadedError

PROBLEM = "application/problem+json"
MEANINGS = {
    400: "A field is missing, unknown or wrong; `field` names it.",
    401: "The token is missing or unknown.",
    403: "A web page of another origin calls, or the token has not the scope of the route.",
    404: "There is no such route or item.",
    405: "The route takes another method; `Allow` names it.",
    408: "The body did not arrive in time.",
    413: "A limit in size was passed.",
    415: "The route takes no body of this content type.",
    421: "The `Host` is no name of this deployment.",
    500: "An internal error; the replica's log has the cause.",
    503: "Not now: no model version can be served, more requests come than can be answered in "
    "time, or not every event was acknowledged. Send the request again, after the seconds in "
    "`Retry-After`.",
}
"""What each status says that a refusal may have."""
HEADERS = {
    401: {"WWW-Authenticate": "Bearer"},
    # What is left of the body is not read, so nothing else can follow it on the connection.
    408: {"Connection": "close"},
    413: {"Connection": "close"},
    503: {"Retry-After": "1"},
}
"""What goes with a status, besides."""

logger = logging.getLogger(__name__)


def problem(status: int, field: str, detail: str, request_id: str = "") -> dict[str, Any]:
    """The members of a refusal: those of RFC 9457, ``field``, which the remedy is about, and
    ``request_id``, which the log names.

    ``type`` is about:blank, which says that the status tells the kind; the title is then its name.
    """
    title = HTTPStatus(status).phrase
    return {
        "type": "about:blank",
        "title": title,
        "status": status,
        "detail": detail,
        "field": field,
        "request_id": request_id,
    }


def refusal(
    status: int, field: str, detail: str, headers: Mapping[str, str] | None = None
) -> Response:
    """A refusal with the headers that its status asks for, and ``headers``."""
    handling = HANDLING.get()
    return Response(
        orjson.dumps(problem(status, field, detail, handling.request_id if handling else "")),
        status,
        headers={**HEADERS.get(status, {}), **(headers or {})},
        media_type=PROBLEM,
    )


REASONS = {
    400: "bad_request",
    401: "unknown_token",
    403: "origin",
    404: "not_found",
    405: "method",
    408: "slow_body",
    413: "too_large",
    415: "content_type",
    421: "host",
}
"""What a status says of a request, as a value of a metric's label."""
OVERLOAD, QUEUE_FULL, NOT_READY, INTERNAL = "overload", "queue_full", "not_ready", "internal"


def reason_of(error: Exception) -> str:
    """Why a request is refused; one of a few words."""
    if isinstance(error, RequestError):
        return error.reason or REASONS[error.status]
    if isinstance(error, OverloadedError):
        return OVERLOAD
    if isinstance(error, BusyError):
        return QUEUE_FULL
    return NOT_READY if isinstance(error, PrerankError) else INTERNAL


def refusal_of(error: Exception) -> Response:
    """What a caller is told of an error: the cause of one that is ours stays in the log."""
    if isinstance(error, RequestError):
        return refusal(error.status, error.field, error.message, error.headers)
    if isinstance(error, PrerankError):
        return refusal(503, "service", str(error))
    logger.error("request failed", exc_info=error)
    return refusal(500, "service", "internal error; the replica's log has the cause")
