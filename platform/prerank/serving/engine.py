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
from pathlib import Path
from typing import Any

from prerank import __version__
from prerank.core.errors import NotReadyError, PrerankError
from prerank.core.feature_sets import state_files
from prerank.core.redact import redact
from prerank.core.times import iso
from prerank.online import logs
from prerank.registry import versions as registry
from prerank.registry.bundle import META, Version
from prerank.registry.delta import INDEX_META
from prerank.serving.answer import Answer, Loaded, answer
from prerank.serving.api import Limits, PrerankRequest
from prerank.serving.backoff import BackOff
from prerank.serving.config import ServeConfig, limits_of
from prerank.serving.gated import Gated
from prerank.serving.loading import join, load, rebuilt, stamp
from prerank.serving.shards import VERSION, Shards

logger = logging.getLogger(__name__)


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
