"""What a deployment is configured with: ``args`` of the Serve application."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from prerank.core.home import Home
from prerank.core.manifest import LogManifest
from prerank.online.reader import TIMEOUT_S
from prerank.serving.fields import Limits


@dataclass(frozen=True)
class ServeConfig:
    """``args`` of the Serve application; ``prerank.core.settings.typed`` checks them.

    Attributes:
        home: PRERANK_HOME of the replicas; the environment's when left out.
        clock: "wall", or "replay": each request carries its time (old logs, parity, the demo).
        allow_unpromoted: serve the challenger while nobody has promoted a champion.
        require_gate: refuse a version whose gate (`prerank gate`) has failed, or was never asked.
        poll_seconds: how often the registry is asked for the champion, and the online store for
            its state.
        timeout_ms: time budget of a request, from when it is whole; a read of the online store that
            has not ended by then is given up. A request may ask for less.
        golden_ms: what a golden request of a version may take in the median, in milliseconds; a
            version that takes longer is not served.
        replicas: of the scorer; None for two where the cluster has the cores, else one. With
            shards, of the front and of each shard.
        max_replicas: up to so many are started while requests wait; None: never more than
            ``replicas``.
        ongoing_per_replica: requests that a replica has at once, on average, beyond which another
            one is started, where ``max_replicas`` allows it.
        shards: processes that the item vectors are divided among; 1: each replica has all of them.
        shard_timeout_ms: in which a shard must answer; one that does not is left out of the answer.
        writers: of user histories; a user always has the same one.
        max_candidates: of one request.
        max_k: items in one answer.
        max_explained: items in one answer with `explain`.
        max_waiting: requests per replica that are read, wait or are scored; the same of events.
        body_seconds: in which the body of a request must arrive.
        token_file: holds the tokens of callers; without it PRERANK_TOKEN does, and without both
            no token is asked for. It is read again when it changes.
        allowed_hosts: names by which the deployment is called, besides loopback ones.
        allowed_origins: of pages that may call it, besides its own: "https://host[:port]".
        journal_days: an acknowledged event leaves the journal after so many days; null keeps what
            a replay needs for ever.
        journal_segment_mb: at this size a file of the journal ends and another one begins; in Redis
            a journal that grew by as much may be compacted.
        log_share: share of the requests whose answers are written down for the next training, and
            whether reported events are; 0: nothing is.
        log_items: of an answer that is written down, the best ones.
        log_days: what was written down is removed after so many days; null keeps it, and so does
            `clock: replay`.
        log_format: "text" leaves logging as it is; "json" writes a JSON object per record to
            standard error.
    """

    home: str | None = None
    clock: Literal["wall", "replay"] = "wall"
    allow_unpromoted: bool = False
    require_gate: bool = True
    poll_seconds: Annotated[float, Field(gt=0)] = 2.0
    timeout_ms: Annotated[float, Field(gt=0)] = 1e3 * TIMEOUT_S
    golden_ms: Annotated[float, Field(gt=0)] = 100.0
    replicas: Annotated[int, Field(ge=1)] | None = None
    max_replicas: Annotated[int, Field(ge=1)] | None = None
    ongoing_per_replica: Annotated[float, Field(gt=0)] = 2.0
    shards: Annotated[int, Field(ge=1)] = 1
    shard_timeout_ms: Annotated[float, Field(gt=0)] = 1_000.0
    writers: Annotated[int, Field(ge=1)] = 1
    max_candidates: Annotated[int, Field(ge=1)] = 200_000
    max_k: Annotated[int, Field(ge=1)] = 10_000
    max_explained: Annotated[int, Field(ge=1)] = 1_000
    max_waiting: Annotated[int, Field(ge=1)] = 64
    body_seconds: Annotated[float, Field(gt=0)] = 10.0
    token_file: str | None = None
    allowed_hosts: tuple[Annotated[str, Field(pattern=r"^([\w.-]+|[0-9a-fA-F:.]+)$")], ...] = ()
    allowed_origins: tuple[Annotated[str, Field(pattern=r"^https?://[^/]+$")], ...] = ()
    journal_days: Annotated[float, Field(gt=0)] | None = 90.0
    journal_segment_mb: Annotated[int, Field(ge=1)] = 64
    log_share: Annotated[float, Field(ge=0, le=1)] = 0.0
    log_items: Annotated[int, Field(ge=1)] = 100
    log_days: Annotated[float, Field(gt=0)] | None = 90.0
    log_format: Literal["text", "json"] = "text"

    def home_folder(self) -> Home:
        """Where state lives."""
        return Home.at(self.home) if self.home else Home.from_env()


def limits_of(home: Home, config: ServeConfig) -> Limits:
    """What requests and events may hold, from the ingested log.

    Raises:
        StateError: nothing was ingested.
    """
    manifest = LogManifest.load(home)
    return Limits(
        ids=manifest.item_ids,
        schema=manifest.schema,
        replay=config.clock == "replay",
        max_candidates=config.max_candidates,
        max_k=config.max_k,
        max_explained=config.max_explained,
        timeout_ms=config.timeout_ms,
    )
