"""What the playground's part of a Serve configuration may say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from prerank.core.home import Home
from prerank.serving.config import ServeConfig

NEVER_TOO_SLOW_MS = 1e9
"""What a golden request may take here: a version too slow to serve can still be looked at."""


@dataclass(frozen=True)
class PlaygroundConfig:
    """``args`` of the playground's application; ``prerank.core.settings.typed`` checks them.

    Attributes:
        home: PRERANK_HOME, that of the deployment; the environment's when left out.
        clock: that of the deployment. With "replay" the page has a field for the time.
        allow_unpromoted, require_gate: as the deployment has them.
        poll_seconds: how often the registry is asked for the champion, and the log looked at.
        versions: model versions that are kept in memory beside the champion.
        log_events: newest events of the log that the page knows: searches and users.
        timeout_ms: of reading a request's features.
        max_candidates: of one ranking.
        max_waiting: requests that are read, wait or are worked on; others are refused.
        body_seconds: in which the body of a request must arrive.
        token_file: that of the deployment; without it PRERANK_TOKEN holds the tokens.
        allowed_hosts: names by which it is called, besides loopback ones.
        allowed_origins: of pages that may call it, besides its own.
        log_format: "text" leaves logging as it is; "json" writes a JSON object per record.
    """

    home: str | None = None
    clock: Literal["wall", "replay"] = "wall"
    allow_unpromoted: bool = False
    require_gate: bool = True
    poll_seconds: Annotated[float, Field(gt=0)] = 5.0
    versions: Annotated[int, Field(ge=1)] = 3
    log_events: Annotated[int, Field(ge=1)] = 1_000_000
    timeout_ms: Annotated[float, Field(gt=0)] = 1_000.0
    max_candidates: Annotated[int, Field(ge=1)] = 200_000
    max_waiting: Annotated[int, Field(ge=1)] = 32
    body_seconds: Annotated[float, Field(gt=0)] = 10.0
    token_file: str | None = None
    allowed_hosts: tuple[Annotated[str, Field(pattern=r"^([\w.-]+|[0-9a-fA-F:.]+)$")], ...] = ()
    allowed_origins: tuple[Annotated[str, Field(pattern=r"^https?://[^/]+$")], ...] = ()
    log_format: Literal["text", "json"] = "text"

    def home_folder(self) -> Home:
        """Where state lives."""
        return self.serving().home_folder()

    def serving(self) -> ServeConfig:
        """The same as the configuration of an engine, which follows the champion as replicas do."""
        return ServeConfig(
            home=self.home,
            clock=self.clock,
            allow_unpromoted=self.allow_unpromoted,
            require_gate=self.require_gate,
            poll_seconds=self.poll_seconds,
            timeout_ms=self.timeout_ms,
            golden_ms=NEVER_TOO_SLOW_MS,
            max_candidates=self.max_candidates,
            max_k=self.max_candidates,
        )
