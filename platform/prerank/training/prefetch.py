"""Batches made ahead of the training that uses them."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator

from interactrank.features.batch import Batch

DEPTH = 4
"""Batches that wait at most: enough for an uneven source, a few MB each."""
STOP_SECONDS = 10.0


class Prefetcher:
    """The batches of consecutive epochs, made by a thread while the model trains and is measured.

    The thread goes on into the next epoch as soon as there is room, so no epoch begins with the
    wait for its first file. Order and content are those of ``batches``. To be used as a context
    manager, which stops the thread, wherever it is.

    Args:
        batches: epoch number -> its batches; called and read in the thread.
        epochs: the epochs to come, in order; not all of them need be asked for.
    """

    def __init__(self, batches: Callable[[int], Iterable[Batch]], epochs: range) -> None:
        self._batches, self._epochs = batches, epochs
        self._made: queue.Queue[Batch | BaseException | None] = queue.Queue(DEPTH)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._make, daemon=True, name="batches")

    def __enter__(self) -> Prefetcher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        # A source that waits for another worker may not come back: it is not waited for longer.
        self._thread.join(STOP_SECONDS)

    def epoch(self) -> Iterator[Batch]:
        """The next epoch's batches, once each. What the source raises is raised here."""
        while (made := self._made.get()) is not None:
            if isinstance(made, BaseException):
                raise made
            yield made

    def _make(self) -> None:
        try:
            for epoch in self._epochs:
                for batch in self._batches(epoch):
                    if not self._put(batch):
                        return
                if not self._put(None):
                    return
        except BaseException as error:
            self._put(error)

    def _put(self, made: Batch | BaseException | None) -> bool:
        """Queue it; False once stopped."""
        while not self._stopped.is_set():
            try:
                self._made.put(made, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False
