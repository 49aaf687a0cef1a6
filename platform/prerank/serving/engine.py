"""What a replica does, without Ray: follow the champion, keep it warm, answer requests.

A background thread asks the registry every few seconds which version to serve. A new version is
downloaded, loaded, joined with its index, warmed and put to the gate there, off the request path
(``prerank.serving.loading``); then one reference is exchanged, so a request sees the old version or
the new one, never parts of both. A version that cannot be served, or does not pass the gate, leaves
the old one in place, and ``Engine.health`` says why. It is tried again later and later, or at once
when it, or a file that decides whether it can be served, has changed.

An index that was built anew is loaded as another version is. Items that were added to the index
join it: neither the model nor the index is read again.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import threading
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from prerank import __version__
from prerank.core.errors import NotReadyError, PrerankError
from prerank.core.feature_sets import state_files
from prerank.core.home import Home
from prerank.core.manifest import LogManifest
from prerank.core.redact import redact
from prerank.core.times import iso
from prerank.online import logs
from prerank.online.reader import TIMEOUT_S
from prerank.registry import versions as registry
from prerank.registry.bundle import META, Version
from prerank.registry.delta import INDEX_META
from prerank.serving.answer import Answer, Loaded, answer
from prerank.serving.api import Limits, PrerankRequest
from prerank.serving.backoff import BackOff
from prerank.serving.gated import Gated
from prerank.serving.loading import join, load, rebuilt, stamp
from prerank.serving.shards import VERSION, Shards

logger = logging.getLogger(__name__)


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


class Engine:
    """Serves the champion of ``config.home``. ``start`` begins to follow it.

    Args:
        config: of the deployment.
        shards: of the index; None where this process scores by itself.
        promoted: which version is to be served; None for the champion.

    Attributes:
        refused: why the version that is to be served is not; empty where it is.
        shards: of the index; None where this process scores by itself.
    """

    def __init__(
        self,
        config: ServeConfig,
        shards: Shards | None = None,
        promoted: registry.Follows | None = None,
    ) -> None:
        # A registry that hangs must not hold up a deployment for MLflow's default of minutes.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
        self.config, self.home = config, config.home_folder()
        self.shards = shards
        self._loaded: Loaded | None = None
        self._before: Loaded | None = None
        self._event_limits: Limits | None = None
        self._promoted = promoted or registry.Promoted(self.home, config.allow_unpromoted)
        self._gated = Gated(self.home, config.require_gate)
        self._back_offs = defaultdict[Version, BackOff](lambda: BackOff(2 * config.poll_seconds))
        self._note, self.refused = "starting", ""
        self._stop = threading.Event()

    def start(self) -> None:
        """Load what there is, then keep following in the background."""
        self.refresh()
        threading.Thread(target=self._follow, name="champion", daemon=True).start()

    def stop(self) -> None:
        """End the background threads."""
        self._stop.set()
        if self._loaded is not None:
            self._loaded.features.close()

    def _follow(self) -> None:
        while not self._stop.wait(self.config.poll_seconds):
            self.refresh()

    def refresh(self) -> None:
        """Look once whether another version is to be served, and serve it."""
        note = ""
        try:
            note = self._look()
            if self._loaded is not None:
                self._loaded.features.look()
            wanted, now = self._promoted.wanted(), self._loaded
            barred = self._gated.bars(wanted)
            if now and now.wanted.version == wanted.version and not rebuilt(self.home, now):
                self.serve(join(self.home, dataclasses.replace(now, wanted=wanted)))
                self.refused = barred
            else:
                self.refused = barred or self._follow_to(wanted)
                if self.refused and now is None:
                    self._serve_last(wanted.version, barred)
            note = self.refused or note
            if not self.refused:
                self._promoted.remember(wanted)
                note = note or wanted.note
        except Exception as error:
            # The thread must live on: the next poll may find the cause gone.
            if not isinstance(error, PrerankError):
                logger.exception("the model could not be refreshed")
            note = _said(error)
        self._note = note

    def _look(self) -> str:
        """See what changed in the object store of the home; why not, where that cannot be seen.

        What this node has of the home is served meanwhile.
        """
        home = self.home
        try:
            home.look(home.root, home.pointer.parent, home.feast, home.index)
        except PrerankError as error:
            return f"the state of before is served: {_said(error)}"
        return ""

    def _follow_to(self, wanted: registry.Wanted) -> str:
        """Serve another version; if it cannot be served, the reason why."""
        tried = tuple(map(stamp, self._decisive(wanted.version)))
        back_off = self._back_offs[wanted.version]
        if reason := back_off.reason_to_wait(tried, time.monotonic()):
            return reason
        try:
            self.serve(self._load(wanted))
        except Exception as error:
            # The traceback is for an error that nobody foresaw.
            unforeseen = not isinstance(error, PrerankError)
            reason = f"model version {wanted.version} is refused: {_said(error)}"
            logger.error(reason, exc_info=unforeseen)
            back_off.failed(tried, time.monotonic(), reason)
            return reason
        logger.info("serving model version %s", wanted.version)
        return ""

    def _serve_last(self, refused: Version, barred: str) -> None:
        """Where nothing is served yet: serve what was served last, as other replicas still do."""
        last = self._promoted.last()
        # A version that could not be loaded is not tried twice.
        if last is not None and (barred or last.version != refused):
            self._follow_to(last)

    def _decisive(self, version: Version) -> tuple[Path, ...]:
        """The files that decide whether a version can be served."""
        home = self.home
        own = home.models / version.name / META, home.index / version.name / INDEX_META
        return *own, home.manifest, *state_files(home)

    def serve(self, loaded: Loaded) -> None:
        """Answer with ``loaded`` from now on."""
        before, self._loaded = self._loaded, loaded
        if before is not None and before.features is not loaded.features:
            before.features.close()
            # Without shards nothing is asked of it any more.
            self._before = before if loaded.shards else None

    def _load(self, wanted: registry.Wanted) -> Loaded:
        of_log = limits_of(self.home, self.config)
        loaded = load(self.home, wanted, of_log, self.config.golden_ms, self.shards)
        self._event_limits = of_log
        return loaded

    def event_limits(self) -> Limits:
        """What an event may hold; read with each model version, so that no event waits for it.

        Raises:
            StateError: nothing was ingested.
        """
        if self._event_limits is None:
            self._event_limits = limits_of(self.home, self.config)
        return self._event_limits

    def limits(self) -> Limits:
        """What a request may hold now.

        Raises:
            NotReadyError: no version is loaded; the message holds the remedy.
        """
        return self.current().limits

    def current(self) -> Loaded:
        """The version that is served now.

        Raises:
            NotReadyError: none is loaded; the message holds the remedy.
        """
        if self._loaded is None:
            raise NotReadyError(self._note)
        return self._loaded

    @property
    def model_version(self) -> str | None:
        """Number of the version that is served now; None if none is."""
        return self._loaded.wanted.version.number if self._loaded else None

    def answer(self, request: PrerankRequest) -> Answer:
        """Score a request with the version of the moment.

        Where a shard of the index has not loaded that version yet, the one before may do.

        Raises:
            NotReadyError: no version is loaded, or no shard answered.
        """
        found, before = answer(request, self.current()), self._before
        if before is not None and any(shard.cause == VERSION for shard in found.missing):
            again = answer(request, before)
            return again if len(again.missing) < len(found.missing) else found
        return found

    def health(self) -> dict[str, Any]:
        """What runs here: code, schema, model, snapshot, and what is wrong."""
        loaded = self._loaded
        dead_letters, journal = logs.look(self.home)
        of_loaded = (loaded.note, loaded.index.problem, loaded.features.problem) if loaded else ()
        about = (self._note, *of_loaded, journal)
        return {
            "code_version": __version__,
            "model_version": self.model_version,
            "run_id": loaded.wanted.version.run_id if loaded else None,
            "alias": loaded.wanted.alias if loaded else None,
            "confirmed": not loaded.wanted.note if loaded else None,
            "schema_hash": loaded.limits.schema.hash() if loaded else None,
            "items": len(loaded.scorer.table) if loaded else 0,
            "snapshot_cutoff": iso(loaded.features.cutoff_us()) if loaded else None,
            "clock": self.config.clock,
            "dead_letters": dead_letters,
            "notes": [note for note in about if note],
        }

    def ready(self) -> tuple[bool, str]:
        """Whether requests are answered; and what is wrong all the same, or why not."""
        if (loaded := self._loaded) is None:
            return False, self._note
        return True, " ".join(filter(None, (self.refused, loaded.features.problem)))


def _said(error: Exception) -> str:
    """What a caller may know of an error."""
    if isinstance(error, PrerankError):
        return redact(str(error))
    return "the model could not be loaded; the replica's log has the cause"
