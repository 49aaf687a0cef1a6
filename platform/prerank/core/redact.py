"""Taking secrets out of text that leaves the process: HTTP answers, logs, the terminal."""

from __future__ import annotations

import os
import re
from contextlib import suppress

from prerank.core.errors import ConfigError
from prerank.core.tokens import TOKEN_ENV, read_tokens

HIDDEN = "***"
SECRET_ENVS = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
_USERINFO = re.compile(r"(?<=://)[^/\s'\"]*@")
_PASSWORD = re.compile(r"(?i)\b(password['\"]?\s*[=:]\s*)([^\s,;&]+)")


def redact(text: str) -> str:
    """``text`` without passwords: those of URLs, of ``password=`` and of the environment, where
    the deployment's tokens may stand too.

    >>> redact("no server at https://ann:s3cret@mlflow:5000/")
    'no server at https://***@mlflow:5000/'
    >>> redact("redis:6379,db=0,password=s3cret,ssl=true")
    'redis:6379,db=0,password=***,ssl=true'
    """
    for secret in _secrets():
        text = text.replace(secret, HIDDEN)
    return _PASSWORD.sub(rf"\1{HIDDEN}", _USERINFO.sub(f"{HIDDEN}@", text))


def _secrets() -> list[str]:
    """Secrets that the environment holds, the longest first: one may be a part of another."""
    found = [os.environ.get(name, "") for name in SECRET_ENVS]
    for part in os.environ.get("PRERANK_REDIS", "").split(","):
        name, _, value = part.partition("=")
        if name == "password":
            found.append(value)
    if tokens := os.environ.get(TOKEN_ENV):
        with suppress(ConfigError):
            found += [token.text for token in read_tokens(tokens, "")]
    return sorted(filter(None, found), key=len, reverse=True)
