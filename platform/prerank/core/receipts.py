"""The receipt of a forgetting: what was looked at, what went and what remains.

It names the users by hash alone.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prerank.core.errors import DamagedError
from prerank.core.files import read_json, write_json
from prerank.core.forgotten import Forgotten
from prerank.core.home import Home


@dataclass
class Receipt:
    """What a forgetting did, in a file that is written after every step.

    Attributes:
        path: of the file.
        users: hashes, sorted.
        begun: ISO time (UTC). ``ended``: likewise, empty until everything was looked at.
        places: by place, what was looked at there and what went, in words and numbers.
        remains: what is left to do, and how: by what it is.
    """

    path: Path
    users: list[str]
    begun: str
    ended: str = ""
    places: dict[str, dict[str, Any]] = field(default_factory=dict)
    remains: dict[str, str] = field(default_factory=dict)

    @classmethod
    def opened(cls, home: Home, forgotten: Forgotten) -> Receipt:
        """The receipt of a run that did not end, for the same users; else a new one."""
        users = sorted(forgotten.hashes)
        for path in sorted(folder_of(home).glob("forget-*.json")):
            try:
                found = read_json(path)
            except DamagedError:
                continue
            if found["users"] == users and not found["ended"]:
                return cls(path, **found)
        now = _now()
        name = f"forget-{now[:19].replace(':', '').replace('-', '')}Z-{secrets.token_hex(3)}.json"
        made = cls(folder_of(home) / name, users, now)
        made.save()
        return made

    def save(self) -> None:
        """Write it down."""
        write_json(self.path, {k: v for k, v in vars(self).items() if k != "path"})

    def note(self, place: str, looked_at: str, **counts: int) -> None:
        """Add what was done in a place; a run that goes on adds to the counts of before."""
        found = self.places.setdefault(place, {"looked_at": looked_at})
        self.found(place, looked_at, **{k: n + found.get(k, 0) for k, n in counts.items()})

    def found(self, place: str, looked_at: str, **counts: int) -> None:
        """Say what is done in a place by a step that begins anew where it was killed.

        It may find less the second time: the greatest counts stay.
        """
        before = self.places.get(place, {})
        most = {name: max(number, before.get(name, 0)) for name, number in counts.items()}
        self.places[place] = before | {"looked_at": looked_at} | most
        self.save()

    def leave(self, what: str, how: str) -> None:
        """Say what is left to do."""
        self.remains[what] = how
        self.save()

    def settle(self, what: str) -> None:
        """It is not left to do any more."""
        if self.remains.pop(what, None):
            self.save()

    def end(self) -> None:
        """Everything was looked at."""
        self.ended = _now()
        self.save()

    def text(self) -> str:
        """For a terminal."""
        lines = [f"receipt of {len(self.users):,} forgotten, begun {self.begun}"]
        for place, found in self.places.items():
            counts = ", ".join(f"{n:,} {k}" for k, n in found.items() if k != "looked_at")
            lines.append(f"  {place:<20} {counts}   ({found['looked_at']})")
        lines += [f"  remains: {what}: {how}" for what, how in self.remains.items()]
        return "\n".join(lines)


def folder_of(home: Home) -> Path:
    """Where receipts are."""
    return home.root / "receipts"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
