"""When something that failed is tried again."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

LONGEST_SECONDS = 60.0


@dataclass
class BackOff:
    """Twice the last wait after each failure, up to a minute; at once when what is tried changed.

    Args:
        first: seconds to wait after the first failure.
    """

    first: float
    _tried: Hashable = field(default=None, init=False)
    _reason: str = field(default="", init=False)
    _wait: float = field(default=0.0, init=False)
    _until: float = field(default=0.0, init=False)

    def reason_to_wait(self, tried: Hashable, now: float) -> str:
        """Why ``tried`` failed, while it is too early to try it again; else empty.

        Args:
            tried: whatever the outcome depends on; None never waits.
            now: seconds on a monotonic clock.
        """
        return self._reason if tried == self._tried and now < self._until else ""

    def failed(self, tried: Hashable, now: float, reason: str) -> None:
        """Note that ``tried`` failed now."""
        again = tried == self._tried
        self._wait = min(2 * self._wait, LONGEST_SECONDS) if again else self.first
        self._tried, self._reason, self._until = tried, reason, now + self._wait
