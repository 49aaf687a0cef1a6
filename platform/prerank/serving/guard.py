"""Who may call: a request's Host, Origin, token and content type, before its body is read.

A page in a browser can send requests to every address that the browser's machine reaches, loopback
included. It cannot set the content type ``application/json`` without asking first (a preflight,
which is not answered), it cannot hide its Origin, and a name that it pointed at loopback stands in
the Host. A token keeps out everybody else who can reach the port.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass

from starlette.datastructures import Headers

from prerank.core.tokens import TOKEN_ENV, Token
from prerank.serving.fields import RequestError, shown
from prerank.serving.tokens import Tokens

_HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9._-]+))(?::\d{1,5})?", re.ASCII | re.IGNORECASE)
_CONFIGURATION = "in `args` of the deployment's configuration"


@dataclass(frozen=True)
class Guard:
    """What a request must show before anything else of it is read.

    Attributes:
        tokens: one of which callers must send; None, or where it holds none, admits them without.
        hosts: names in the Host header besides loopback ones; without port.
        origins: of pages that may call besides the deployment's own; "https://host[:port]".
    """

    tokens: Tokens | None = None
    hosts: Sequence[str] = ()
    origins: Sequence[str] = ()

    def check(self, headers: Headers) -> Token | None:
        """Admit a request: the token that it brought, None where none is asked for.

        Raises:
            RequestError: 421 for another host's request, 403 for another page's, 401 without a
                token of the deployment; each names the fix.
        """
        host = self._host(headers)
        origin = headers.get("origin")
        if origin is not None and not self._allows(origin, host):
            raise RequestError(
                "Origin",
                f"pages of {shown(origin)} may not call; add it to `allowed_origins` "
                f"{_CONFIGURATION} if they should",
                403,
            )
        if self.tokens is None or not self.tokens.asked:
            return None
        sent = headers.get("authorization", "")
        scheme, _, given = sent.partition(" ")
        token = self.tokens.holder(given.strip()) if scheme.lower() == "bearer" else None
        if token is None:
            raise RequestError(
                "Authorization",
                "send `Authorization: Bearer TOKEN` with a token of this deployment; `prerank "
                f"parity` takes it from the variable {TOKEN_ENV}",
                401,
                reason="unknown_token" if sent else "no_token",
            )
        return token

    def _host(self, headers: Headers) -> str:
        """The one Host of a request, if it is a name of this deployment."""
        sent = headers.getlist("host")
        found = _HOST.fullmatch(sent[0]) if len(sent) == 1 else None
        name = (found[1] or found[2]).lower() if found else ""
        if not name or not (_is_loopback(name) or name in {h.lower() for h in self.hosts}):
            raise RequestError(
                "Host",
                f"{shown(', '.join(sent))} is no name of this deployment: call it by a loopback "
                f"address, or add the name to `allowed_hosts` {_CONFIGURATION}",
                421,
            )
        return sent[0]

    def _allows(self, origin: str, host: str) -> bool:
        own = origin.lower() in {f"{scheme}://{host.lower()}" for scheme in ("http", "https")}
        return own or origin.lower() in {o.lower() for o in self.origins}


def require(scope: str, token: Token | None) -> None:
    """See that a token opens ``scope``; None, where none is asked for, opens everything.

    Raises:
        RequestError: 403, it does not.
    """
    if token is not None and scope and scope not in token.scopes:
        raise RequestError(
            "Authorization",
            f"the token {shown(token.name)} has not the scope {scope!r}, which this route needs: "
            "send another one, or add the scope to its line",
            403,
            reason="scope",
        )


def content_type(headers: Headers, allowed: Sequence[str]) -> str:
    """The media type of a body, one of those that are ``allowed``.

    Raises:
        RequestError: 415, naming them.
    """
    sent = headers.get("content-type", "")
    kind = sent.partition(";")[0].strip().lower()
    if kind not in allowed:
        told = shown(sent) if sent else "missing"
        raise RequestError("Content-Type", f"{told}; send {' or '.join(allowed)}", 415)
    return kind


def _is_loopback(name: str) -> bool:
    try:
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
