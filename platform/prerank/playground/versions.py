"""Model versions that are looked at beside the champion: loaded when asked for, a few at a time."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor

from prerank.core.errors import NotReadyError, PrerankError
from prerank.core.home import Home
from prerank.playground.metrics import EVICTED, FAILED, LOADED, VERSIONS
from prerank.registry import versions as registry
from prerank.serving.answer import Loaded
from prerank.serving.config import limits_of
from prerank.serving.engine import Engine
from prerank.serving.loading import join, load, rebuilt
from prerank.serving.metrics import Metrics

PATIENCE_S = 0.5
"""How long a ranking waits for a version that is being loaded; the page asks again."""

logger = logging.getLogger(__name__)


class LoadingError(NotReadyError):
    """A version is being loaded: the same request may be answered in a few seconds."""


class Versions:
    """Registered versions by number, loaded as a replica loads them.

    One thread loads, one version after the other, so that no ranking waits for files. The versions
    used last stay in memory. What could not be loaded is tried again when it is asked for again.

    Args:
        engine: that follows the champion; a version that it serves is not loaded twice.
        home: of the deployment.
        most: versions that stay in memory beside the engine's.
        metrics: that count what becomes of versions.
    """

    def __init__(self, engine: Engine, home: Home, most: int, metrics: Metrics) -> None:
        self._engine, self._home, self._most = engine, home, most
        self._metrics = metrics
        self._loading = ThreadPoolExecutor(1, thread_name_prefix="versions")
        self._known: OrderedDict[str, Future[Loaded]] = OrderedDict()
        self._lock = threading.Lock()

    def champion(self) -> Loaded:
        """The version that is served now.

        Raises:
            NotReadyError: there is none; the message holds the remedy.
        """
        return self._engine.current()

    def version(self, number: str) -> Loaded:
        """A registered version, with what was added to its index since.

        Raises:
            LoadingError: it is being loaded.
            PrerankError: it cannot be: it is not registered, has no index, or its features are not
                online.
        """
        if self._engine.model_version == number:
            return self.champion()
        with self._lock:
            future = self._known.get(number)
            if future is not None and _done(future) and rebuilt(self._home, future.result()):
                self._drop(number)
                future = None
            if future is None:
                future = self._known[number] = self._loading.submit(self._load, number)
            self._known.move_to_end(number)
        try:
            loaded = future.result(PATIENCE_S)
        except TimeoutError:
            raise LoadingError(
                f"model version {number} is being loaded; ask again in a moment"
            ) from None
        except Exception as error:
            with self._lock:
                self._known.pop(number, None)
            if isinstance(error, PrerankError):
                raise
            logger.exception("model version %s could not be loaded", number)
            raise NotReadyError(
                f"model version {number} could not be loaded; the playground's log has the cause"
            ) from None
        # What an engine does for its champion every few seconds.
        loaded.features.look()
        joined = join(self._home, loaded)
        if joined is not loaded:
            with self._lock:
                if self._known.get(number) is future:
                    self._known[number] = _kept(joined)
        return joined

    def in_memory(self) -> set[str]:
        """Numbers of the versions that are loaded."""
        with self._lock:
            loaded = {number for number, future in self._known.items() if _done(future)}
        return loaded | {n for n in [self._engine.model_version] if n is not None}

    def close(self) -> None:
        """Forget the versions, and end the thread that loads them."""
        self._loading.shutdown(wait=True, cancel_futures=True)
        with self._lock:
            for number in list(self._known):
                self._drop(number)

    def _load(self, number: str) -> Loaded:
        try:
            self._home.look()
            wanted = registry.Wanted("", registry.version_of(number))
            config = self._engine.config
            loaded = load(self._home, wanted, limits_of(self._home, config), config.golden_ms)
        except Exception:
            self._metrics.add(VERSIONS, 1, FAILED)
            raise
        self._metrics.add(VERSIONS, 1, LOADED)
        with self._lock:
            others = [n for n in self._known if n != number and _done(self._known[n])]
            for old in others[: max(len(others) + 1 - self._most, 0)]:
                self._drop(old)
                self._metrics.add(VERSIONS, 1, EVICTED)
        return loaded

    def _drop(self, number: str) -> None:
        """Forget a version; its reader is closed, which requests that use it still survive."""
        future = self._known.pop(number)
        if _done(future):
            future.result().features.close()


def _kept(loaded: Loaded) -> Future[Loaded]:
    future: Future[Loaded] = Future()
    future.set_result(loaded)
    return future


def _done(future: Future[Loaded]) -> bool:
    return future.done() and not future.cancelled() and future.exception() is None
