"""How far users are trusted: the journal of flags, and what it says as of a time.

A flag says how much each event of a user counts from a time on, ``known_at``: its weight, 0 for
nothing and 1 for as much as anybody's. Without a flag it is 1. A later line of the same user takes
the place of the earlier ones from its own ``known_at`` on.

    users.jsonl    {"user_id": "u1", "weight": 0.0, "known_at_us": …, "published_us": …, …}

A flag that is told after a snapshot which should have known it was published is late, as an event
may be (``prerank.ingest.existing``): it counts from the last cutoff that was published when it was
told. As that is kept with the line, a build of everything gives the rows of before again.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prerank.core.errors import DamagedError
from prerank.core.feature_sets import published_us
from prerank.core.files import locked, written
from prerank.core.home import Home


@dataclass(frozen=True, eq=False)
class Flags:
    """Lines of the journal [F] in their order.

    Attributes:
        users: whom each is about.
        weights: float64 [F], from 0 to 1.
        known_us: int64 [F], from when on each counts, microseconds since 1970.
    """

    users: tuple[str, ...]
    weights: NDArray[np.float64]
    known_us: NDArray[np.int64]

    @classmethod
    def load(cls, home: Home) -> Flags:
        """The journal of a home, as it concerns the home's present log; empty if there is none.

        Raises:
            DamagedError: a line cannot be read.
        """
        users: list[str] = []
        weights: list[float] = []
        known: list[int] = []
        text = home.flags.read_text(encoding="utf-8") if home.flags.exists() else ""
        for number, line in enumerate(text.splitlines(), 1):
            try:
                told = json.loads(line)
                user, weight, at = told["user_id"], float(told["weight"]), int(told["known_at_us"])
                published = int(told["published_us"]) if told["log_id"] == home.log_id else 0
            except (ValueError, TypeError, KeyError):
                raise DamagedError(
                    f"{home.flags}: line {number} is damaged. Remove it and give its flag again "
                    "with `prerank users`."
                ) from None
            users.append(str(user))
            weights.append(weight)
            known.append(max(at, published))
        return cls(tuple(users), np.array(weights, np.float64), np.array(known, np.int64))

    @classmethod
    def none(cls) -> Flags:
        """Of a home without a journal."""
        return cls((), np.zeros(0), np.zeros(0, np.int64))

    def as_of(self, time_us: int) -> dict[str, float]:
        """Weight of each user who had a flag before a time; 1 of all others."""
        known = np.flatnonzero(self.known_us < time_us).tolist()
        return {self.users[at]: float(self.weights[at]) for at in known}


def add_flags(
    home: Home, users: Sequence[str], weights: Sequence[float], known_at_us: Sequence[int]
) -> int:
    """Add lines [n] to the journal; returns how many of them are late.

    All are there afterwards, or none is.

    Args:
        home: with a log.
        users: whom each is about.
        weights: from 0 to 1.
        known_at_us: microseconds since 1970.

    Raises:
        OSError: the disk refuses; the journal stays as it was.
        StateError: another node added some just now, where it is in an object store; likewise.
    """
    with locked(home.flags):
        # Another node may have added some.
        home.look(home.root)
        # A build that publishes meanwhile counts without these lines. The next one notices that its
        # flags are not those of before, and builds everything.
        published, log_id = published_us(home), home.log_id
        lines = [
            json.dumps(
                {
                    "user_id": user,
                    "weight": weight,
                    "known_at_us": at,
                    "published_us": published,
                    "log_id": log_id,
                }
            )
            for user, weight, at in zip(users, weights, known_at_us, strict=True)
        ]
        before = home.flags.read_bytes() if home.flags.exists() else b""
        with written(home.flags) as file:
            file.write(before + "".join(f"{line}\n" for line in lines).encode())
    return sum(at < published for at in known_at_us)


def remove_flags(home: Home, users: Collection[str]) -> int:
    """Remove the lines about ``users`` from the journal; how many there were.

    The next build of features notices, and builds everything: it is right only where their events
    leave the log as well.
    """
    if not home.flags.exists():
        return 0
    with locked(home.flags):
        lines = home.flags.read_bytes().splitlines(keepends=True)
        kept = [line for line in lines if json.loads(line)["user_id"] not in users]
        if len(kept) < len(lines):
            with written(home.flags) as file:
                file.write(b"".join(kept))
    return len(lines) - len(kept)
