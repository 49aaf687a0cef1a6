"""The header ``X-Request-Id``: the id of a request whose body names none, and of each answer."""

from __future__ import annotations

from urllib.parse import quote

from starlette.datastructures import Headers

from prerank.serving.fields import MAX_NAME, new_id

REQUEST_ID = "X-Request-Id"


def id_of_header(headers: Headers) -> str:
    """The id that a header names, a new one where it names none that can be taken."""
    sent = headers.get(REQUEST_ID, "")
    return sent if sent.isprintable() and 0 < len(sent) <= MAX_NAME else new_id()


def as_header(request_id: str) -> str:
    """An id as a header can carry it: percent-encoded if it is not plain printable ASCII."""
    plain = request_id.isascii() and request_id.isprintable() and request_id == request_id.strip()
    return request_id if plain else quote(request_id)
