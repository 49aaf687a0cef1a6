"""What the page asks the playground, without HTTP: a dictionary in, a dictionary out.

Every method raises ``RequestError`` for what is wrong with the request, and ``PrerankError`` with
the remedy where something is missing or away.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from interactrank.features.text import normalise
from prerank import __version__
from prerank.core.errors import NotReadyError, PrerankError
from prerank.core.manifest import LogManifest
from prerank.core.redact import redact
from prerank.core.times import iso
from prerank.evaluation.baselines.ranker import Explained, Ranker
from prerank.playground import pages
from prerank.playground.baselines import ABOUT, EXPLAINED, FITTED, Baselines
from prerank.playground.compare import column
from prerank.playground.config import PlaygroundConfig
from prerank.playground.explain import explain, explain_baseline
from prerank.playground.log_view import KINDS, LogView
from prerank.playground.metrics import IN_MEMORY
from prerank.playground.ranking import Ranked, by_baseline, by_version
from prerank.playground.requests import (
    MAX_ROWS,
    SEARCH_FIELDS,
    Search,
    count_of,
    fields_of,
    rankers_of,
    text_of,
)
from prerank.playground.versions import LoadingError, Versions
from prerank.registry.listing import Listed, listed_versions
from prerank.serving.answer import Loaded
from prerank.serving.candidates import item_key
from prerank.serving.engine import Engine
from prerank.serving.fields import RequestError, context_of, name_of, query_of, shown, time_of
from prerank.serving.metrics import Metrics

Row = dict[str, Any]
CHAMPION, VERSION = "champion", "version:"
ROWS, SUGGESTED, MAX_SUGGESTED = 50, 8, 20
EXAMPLES, SEGMENT_VALUES = 8, 30
MINUTE_US = 60_000_000
AWAY = "the registered versions cannot be listed; the playground's log has the cause"

logger = logging.getLogger(__name__)


class Playground:
    """Answers the page. ``start`` opens the log and begins to follow it and the champion.

    Args:
        config: of the playground.

    Attributes:
        metrics: of this process.
    """

    def __init__(self, config: PlaygroundConfig) -> None:
        self.config, self.home = config, config.home_folder()
        self.engine = Engine(config.serving())
        self.metrics = Metrics()
        self.versions = Versions(self.engine, self.home, config.versions, self.metrics)
        self._opened: tuple[LogView, Baselines] | None = None
        self._problem = "the log is being read"
        self._listed, self._away = list[Listed](), ""
        self._stop = threading.Event()

    def start(self) -> None:
        """Load what there is, then keep following in the background."""
        self.refresh()
        self.engine.start()
        threading.Thread(target=self._follow, name="playground", daemon=True).start()

    def stop(self) -> None:
        """End the background threads."""
        self._stop.set()
        self.engine.stop()
        self.versions.close()

    def sample(self) -> None:
        """Set the metrics that are gauges."""
        self.metrics.set(IN_MEMORY, len(self.versions.in_memory()))

    def refresh(self) -> None:
        """Open the log anew where another one, or a longer one, was ingested; list the versions."""
        self._open_log()
        # Not when somebody asks: a registry that hangs must not hold up the page.
        try:
            self._listed, self._away = listed_versions(), ""
        except Exception as error:
            self._away = redact(str(error)) if isinstance(error, PrerankError) else AWAY
            if not isinstance(error, PrerankError):
                logger.exception("the versions could not be listed")

    def _open_log(self) -> None:
        try:
            self.home.look()
            fingerprint = LogManifest.load(self.home).fingerprint
            if self._opened is None or self._opened[0].fingerprint != fingerprint:
                self._opened = LogView(self.home, self.config.log_events), Baselines(self.home)
            self._opened[1].look()
            self._problem = ""
        except Exception as error:
            # The thread must live on: the next look may find the cause gone.
            known = isinstance(error, PrerankError)
            self._problem = redact(str(error)) if known else "the log cannot be read"
            if not known:
                logger.exception("the log could not be opened")

    def state(self, data: Mapping[str, Any]) -> Row:
        """What the page begins with: the log, its clock, whom one may choose from."""
        view = self._view()
        manifest, health = view.manifest, self.engine.health()
        replay = self.config.clock == "replay"
        problems = [*health["notes"], self._problem, self._away]
        return {
            "code_version": __version__,
            "log": {
                "name": manifest.dataset,
                "events": manifest.events,
                "requests": manifest.requests,
                "items": manifest.items,
                "users": manifest.users,
                "queries": manifest.queries,
                "last_time": manifest.last_time,
                "has_impressions": manifest.has_impressions,
            },
            "clock": self.config.clock,
            "time": iso(manifest.last_us + MINUTE_US) if replay else None,
            "champion": health["model_version"],
            "snapshot_cutoff": health["snapshot_cutoff"],
            "actions": list(manifest.schema.engagements),
            "segments": [
                {"name": name, "values": view.segment_values(name, SEGMENT_VALUES)}
                for name in manifest.segments
            ],
            "rankers": self._rankers(),
            "examples": view.suggest("queries", "", EXAMPLES),
            "problems": list(dict.fromkeys(filter(None, problems))),
        }

    def suggest(self, data: Mapping[str, Any]) -> Row:
        """Names as they are typed."""
        fields_of(data, "kind", "text", "limit")
        if (kind := data.get("kind")) not in KINDS:
            raise RequestError("kind", f"{shown(kind)} is none of {', '.join(KINDS)}")
        limit = count_of(data, "limit", SUGGESTED, MAX_SUGGESTED)
        # Longer than any name that is found; what is too long for a ranking is told by that.
        return {"found": self._view().suggest(kind, text_of(data, "text", 100_000), limit)}

    def requests(self, data: Mapping[str, Any]) -> Row:
        """Searches of the log, to take candidates from."""
        fields_of(data, "query", "user_id")
        query = normalise(text_of(data, "query", 100_000)) or None
        return {"requests": self._view().requests(query, text_of(data, "user_id") or None)}

    def rank(self, data: Mapping[str, Any]) -> Row:
        """One search by up to three rankers, and where each puts an item that another has."""
        fields_of(data, *SEARCH_FIELDS, "rankers", "rows")
        view, names = self._view(), rankers_of(data)
        rows = count_of(data, "rows", ROWS, MAX_ROWS)
        search = Search.of(data, view)
        # Wrong input is everybody's; what one ranker lacks is told in its place.
        request = search.request(self.versions.champion())
        found = [self._ranked(name, search) for name in names]
        first = next((ranked for ranked in found if isinstance(ranked, Ranked)), None)
        user = request.user_id
        return {
            "query": request.query,
            "user_id": user,
            "known_user": view.knows_user(user) or self._has_history(user, request.time_us),
            "time": iso(request.time_us),
            "candidates": len(first.keys) if first else 0,
            "columns": [
                {"ranker": name}
                | (
                    column(ranked, first or ranked, rows, search.engaged, view.items)
                    if isinstance(ranked, Ranked)
                    else {"items": [], **ranked}
                )
                for name, ranked in zip(names, found, strict=True)
            ],
        }

    def explain(self, data: Mapping[str, Any]) -> Row:
        """The parts of one candidate's score, by a model version or a baseline that has some."""
        fields_of(data, *SEARCH_FIELDS, "ranker", "item")
        view, name = self._view(), text_of(data, "ranker")
        if name in ABOUT and name not in EXPLAINED:
            raise RequestError(
                "ranker",
                f"{name} is {ABOUT[name]}: its scores have no parts; those of model versions, "
                f"{' and '.join(EXPLAINED)} do",
            )
        ranker, loaded = self._ranker(name)
        request = Search.of(data, view).request(loaded)
        key = item_key(data.get("item"), "item", view.manifest.item_ids)
        (item,) = view.items.shown(np.array([key]))
        if isinstance(ranker, Explained):
            return {"item": item} | explain_baseline(request, key, ranker, loaded)
        return {"item": item} | explain(request, key, loaded)

    def query(self, data: Mapping[str, Any]) -> Row:
        """A page of a query."""
        fields_of(data, "query", "context", "time")
        loaded = self.versions.champion()
        context = context_of(data.get("context"), loaded.limits.schema)
        now_us = self._time(data)
        return pages.query_page(query_of(data.get("query")), context, now_us, self._view(), loaded)

    def item(self, data: Mapping[str, Any]) -> Row:
        """A page of an item."""
        fields_of(data, "id", "time")
        id = name_of(data.get("id"), "id")
        return pages.item_page(id, self._time(data), self._view(), self.versions.champion())

    def user(self, data: Mapping[str, Any]) -> Row:
        """A page of a user."""
        fields_of(data, "user_id", "time")
        user = name_of(data.get("user_id"), "user_id")
        return pages.user_page(user, self._time(data), self._view(), self.versions.champion())

    def _follow(self) -> None:
        while not self._stop.wait(self.config.poll_seconds):
            self.refresh()

    def _view(self) -> LogView:
        return self._open()[0]

    def _baselines(self) -> Baselines:
        return self._open()[1]

    def _open(self) -> tuple[LogView, Baselines]:
        if self._opened is None:
            raise NotReadyError(self._problem)
        return self._opened

    def _time(self, data: Mapping[str, Any]) -> int:
        """The time as of which something is looked at, microseconds since 1970."""
        if (given := data.get("time")) is not None:
            return time_of(given, "time")
        if self.config.clock == "replay":
            return self._view().manifest.last_us + MINUTE_US
        return time.time_ns() // 1000

    def _has_history(self, user: str, now_us: int) -> bool:
        loaded = self.versions.champion()
        context = dict.fromkeys(loaded.limits.schema.segments, "")
        read = loaded.features.read("", user, now_us, context)
        return bool(len(read.inputs.hist_items) or read.degraded)

    def _rankers(self) -> list[Row]:
        """Everything that can rank."""
        champion, loaded = self.engine.model_version, self.versions.in_memory()
        title = f"champion (version {champion})" if champion else "champion (none yet)"
        models: list[Row] = [{"id": CHAMPION, "title": title, "loaded": True}]
        for each in self._listed:
            number, names = each.version.number, ", ".join(each.aliases)
            models.append(
                {
                    "id": f"{VERSION}{number}",
                    "title": f"version {number}" + (f" ({names})" if names else ""),
                    "loaded": number in loaded,
                    "created": each.created,
                }
            )
        models = [row | {"kind": "model", "explained": True} for row in models]
        numbers = {f"{VERSION}{v.version.number}": v.version.number for v in self._listed}
        numbers |= {CHAMPION: champion or ""}
        return models + self._baselines().offered(self._of_runs(), numbers)

    def _of_runs(self) -> dict[str, str]:
        """The model version of each job, by the id of the job's MLflow run."""
        runs = {v.version.run_id: f"{VERSION}{v.version.number}" for v in self._listed}
        try:
            return runs | {self.versions.champion().wanted.version.run_id: CHAMPION}
        except NotReadyError:
            return runs

    def _ranker(self, name: str) -> tuple[Ranker | None, Loaded]:
        """A baseline and the version whose features it reads; of a version, itself alone."""
        if name not in ABOUT:
            return None, self._loaded(name)
        baselines, reads = self._baselines(), CHAMPION
        if name in FITTED:
            reads = baselines.beside(name, self._of_runs())
        loaded = self._loaded(reads)
        return baselines.ranker(name, loaded.limits.schema), loaded

    def _loaded(self, name: str) -> Loaded:
        if name == CHAMPION:
            return self.versions.champion()
        if name.startswith(VERSION) and name.removeprefix(VERSION).isdecimal():
            return self.versions.version(name.removeprefix(VERSION))
        known = [CHAMPION, f"{VERSION}<number>", *ABOUT]
        raise RequestError("rankers", f"{shown(name)} is none of {', '.join(known)}")

    def _ranked(self, name: str, search: Search) -> Ranked | Row:
        """The candidates in a ranker's order, or why it has none."""
        try:
            ranker, loaded = self._ranker(name)
            request = search.request(loaded)
            return by_baseline(request, ranker, loaded) if ranker else by_version(request, loaded)
        except LoadingError as error:
            return {"loading": True, "problem": str(error)}
        except RequestError as error:
            return {"problem": f"{error.field}: {error.message}"}
        except PrerankError as error:
            return {"problem": redact(str(error))}
