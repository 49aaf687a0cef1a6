"""The environment that every process of an installation must share: `eval "$(prerank env)"`."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

from prerank.core.home import ENV, ID_ENV, Home
from prerank.core.tokens import TOKEN_ENV, read_tokens

MLFLOW_PORT, DASHBOARD_PORT, SERVE_PORT = 5000, 8265, 8000
URL_ENV = "PRERANK_URL"


def variables(home: Home) -> dict[str, str]:
    """Variables for a cluster on this machine; what the caller already set is kept."""
    wanted = {
        ENV: home.place,
        # A local ray.init() writes a token, and the next `ray start` then asks for one: use
        # tokens from the start, for the cluster and its clients alike.
        "RAY_AUTH_MODE": "token",
        # Serve's own proxy costs 4-6 ms per request, HAProxy about 1 ms.
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        # A replica that dies in the middle of an answer costs a second try at another one, not an
        # error: a ranking changes nothing, and an event that is repeated counts once. A body that
        # is to be sent again must fit the proxy's buffer: 256 KiB, 32,000 candidates as int64. With
        # 1 MiB each request took a millisecond longer (benchmarks/proxy_buffer.py).
        "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
        "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": str(256 << 10),
        "RAY_SERVE_HAPROXY_TIMEOUT_CONNECT_S": "1",
        # A proxy that died is replaced after three looks at it, ten seconds apart by default.
        "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "2",
        # What Serve answers while no replica can, in the form of every other refusal and soon.
        "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "prerank.serving.proxy:middlewares",
        "RAY_DASHBOARD_ADDRESS": f"http://127.0.0.1:{DASHBOARD_PORT}",
        "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{MLFLOW_PORT}",
        URL_ENV: f"http://127.0.0.1:{SERVE_PORT}",
        "FEAST_USAGE": "False",
        "RAY_USAGE_STATS_ENABLED": "0",
        # Seven processes that wait for jobs of language models: 27 s of a core at each start.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        # Usage statistics would look for a network that a cluster may not have.
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    kept = {name: os.environ.get(name, value) for name, value in wanted.items()}
    # For the `feast` command. Never what is set: that may be another home's.
    return kept | {ID_ENV: home.id}


def bearer_token(given: str | None = None) -> str | None:
    """The token that is sent to the deployment: ``given``, else PRERANK_TOKEN's; None without both.

    Of several, the one with the most scopes.

    Raises:
        ConfigError: it is set to what is no token.
    """
    text, source = (os.environ.get(TOKEN_ENV), TOKEN_ENV) if given is None else (given, "`token`")
    if text is None:
        return None
    return max(read_tokens(text, source), key=lambda token: len(token.scopes)).text


def ensure_token() -> None:
    """Make Ray's own auth token if this user has none."""
    if (Path.home() / ".ray" / "auth_token").exists() or os.environ.get("RAY_AUTH_TOKEN"):
        return
    ray = Path(sys.executable).with_name("ray")
    subprocess.run([str(ray), "get-auth-token", "--generate"], check=True, capture_output=True)


def adopt(home: Home) -> None:
    """Set the variables in this process (for the demo and `prerank run`)."""
    os.environ.update(variables(home))
    ensure_token()


def exports(home: Home) -> str:
    """Shell lines for ``eval``."""
    ensure_token()
    return "\n".join(f"export {k}={shlex.quote(v)}" for k, v in variables(home).items())
