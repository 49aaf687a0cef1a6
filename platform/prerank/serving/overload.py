"""Refusing at once what could only be answered too late.

A replica scores one request at a time, in the order of their arrival. Where more come than it can
score, the line grows until each of them waits for longer than its budget (``timeout_ms``). Then all
answers are late, none has time left to read features, and the work is done all the same. So a
ranking is refused, with 503 and ``Retry-After``, where its budget would not last:

- at the door, before its body is read, and again when it joins the line: if those ahead of it will
  take more than three quarters of the budget, at the mean time of recent requests. The last quarter
  is for reading and scoring.
- when its turn comes: if less of the budget is left than a request takes in the mean.

The bound is a time, as in CoDel, and not a length: it holds for ten candidates a request and for a
hundred thousand.

Never refused is:

- who has nobody waiting before it. An idle replica answers whatever the budget is, without features
  if need be.
- who came while the online store was late: until a read ended in time, or a second after the last
  one that did not. Then the store makes the line wait and not the load; each read ends with the
  budget of its request, so the line stays short and the answers lack features.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection

from prerank.serving.lane import BusyError
from prerank.serving.stages import FEATURES, WAIT, Stages

IN_LINE = 0.75
"""Share of the budget that a request may wait in the line, by what is expected."""
WEIGHT = 0.1
"""Of the last request in the running mean."""
LATE = 0.5
"""Share of the budget from which a read of the online store is late, as it is to
``prerank.online.reader``. Not imported: Serve's proxy has no use for a store."""
PARDON_S = 1.0
"""How long a late read pardons those who come after it. Another one, or a store that is left alone
by then (``prerank.online.breaker``), follows within that time."""
UNREAD = frozenset(("engagement", "user_history"))
"""What an answer lacks whose read did not end in time."""


class OverloadedError(BusyError):
    """More rankings come than can be answered within their budgets."""


class Overload:
    """How long rankings wait for one replica, and whether their budgets last.

    Safe to share between threads: what two of them measure at once may count once.

    Args:
        budget_ms: ``timeout_ms`` of the deployment, milliseconds.
        threads: that score at the same time.
        clock: seconds that only grow; those of ``arrived``.
    """

    def __init__(
        self, budget_ms: float, threads: int = 1, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.budget_ms = budget_ms
        self._threads, self._clock = threads, clock
        self._mean_ms, self._pardoned_until = 0.0, -math.inf

    def join(self, ahead: int) -> None:
        """Admit a ranking to the line behind ``ahead`` others, which wait or are worked on.

        Raises:
            OverloadedError: they will take too long.
        """
        # Of those that are worked on, half is done in the mean.
        wait_ms = max(ahead / self._threads - 0.5, 0.0) * self._mean_ms
        if wait_ms > IN_LINE * self.budget_ms and not self._is_spared(ahead, self._clock()):
            raise self._overloaded(f"{ahead} are ahead of it, for about {wait_ms:.0f} ms")

    def turn(self, arrived: float, ahead: int, budget_ms: float = math.inf) -> None:
        """Let a ranking whose turn has come be worked on.

        Args:
            arrived: when its body had, by the clock.
            ahead: how many were then.
            budget_ms: its own, where that is less than the deployment's.

        Raises:
            OverloadedError: too little of its budget is left.
        """
        waited_ms = 1e3 * (self._clock() - arrived)
        left_ms = min(budget_ms, self.budget_ms) - waited_ms
        if left_ms < self._mean_ms and not self._is_spared(ahead, arrived):
            raise self._overloaded(f"it has waited for {waited_ms:.0f} ms")

    def served(self, stages: Stages, degraded: Collection[str]) -> None:
        """Learn from a ranking that was answered.

        Args:
            stages: of it.
            degraded: what its answer lacks.
        """
        took_ms = {stage: (ended - begun) / 1e6 for stage, begun, ended in stages.spans()}
        took_ms.pop(WAIT, None)
        if took_ms.get(FEATURES, 0.0) >= LATE * self.budget_ms:
            # No measure of the work: that of the others, without the store, is as it was.
            self._pardoned_until = self._clock() + PARDON_S
            return
        if UNREAD.isdisjoint(degraded):
            self._pardoned_until = min(self._pardoned_until, self._clock())
        # One that took far longer than the others, where the machine did something else, says
        # little of the next one.
        spent_ms = min(sum(took_ms.values()), 2 * self._mean_ms or self.budget_ms)
        self._mean_ms += WEIGHT * (spent_ms - self._mean_ms)

    def _is_spared(self, ahead: int, arrived: float) -> bool:
        return ahead <= self._threads or arrived < self._pardoned_until

    def _overloaded(self, why: str) -> OverloadedError:
        return OverloadedError(
            f"more rankings come than this replica can answer within {self.budget_ms:g} ms "
            f"(timeout_ms): {why}. Send the request again later."
        )
