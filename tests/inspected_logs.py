"""Logs to look at, and what is found of them."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from prerank.ingest.inspection.actions import Action
from prerank.ingest.inspection.look import Inspection, inspect

Frame = pd.DataFrame
START = pd.Timestamp("2024-03-01T00:00:00Z")
NOW = int(pd.Timestamp("2024-12-01T00:00:00Z").value // 1000)
WORDS = ("red shoe", "blue bag", "warm hat", "long coat", "rain boots")
ITEMS = pd.DataFrame(
    {
        "item_id": range(40),
        "title": [f"{WORDS[i % 5]} number {i}" for i in range(40)],
        "category": [f"c{i % 4}" for i in range(40)],
        "price": [1.5 * i for i in range(40)],
    }
)


def shop(requests: int = 120, hours: float = 24.0) -> Frame:
    """Lists of five, a click half an hour after every second list; a request each ``hours``."""
    rows = []
    for r in range(requests):
        asked = START + pd.Timedelta(hours=r * hours)
        own = {
            "request_id": f"r{r}",
            "request_time": asked,
            "user_id": f"u{r % 17}",
            "query": WORDS[r % 5],
            "device": ("phone", "desktop")[r % 17 % 2],
        }
        for place in range(5):
            shown = own | {"item_id": (7 * r + place) % 40, "position": place}
            rows.append(shown | {"event_time": asked, "action": "impression"})
            if r % 2 and place == r % 5:
                later = asked + pd.Timedelta(minutes=20 + r % 20)
                rows.append(shown | {"event_time": later, "action": "click"})
    return pd.DataFrame(rows)


def touches() -> Frame:
    """Two days with one time: lists of five with a click, and touches, each its own request."""
    rows = []
    for r in range(300):
        at = START + pd.Timedelta(minutes=9.5 * r)
        own = {
            "request_id": f"r{r}",
            "timestamp": at,
            "user_id": f"u{r // 6}",
            "session_id": f"s{r // 6}",
            "query": WORDS[(r // 2) % 5],
            "device": ("phone", "desktop")[r // 6 % 2],
        }
        if r % 3:
            touch = own | {"item_id": r % 40, "action": ("image", "info")[r % 3 % 2]}
            rows.append(touch | {"position": None, "price": None})
            continue
        for place in range(5):
            shown = own | {"item_id": (r + place) % 40, "position": place, "price": 10.0 + place}
            rows.append(shown | {"action": "impression"})
        rows.append(rows[-5] | {"action": "click"})
    return pd.DataFrame(rows)


def clicks(requests: int = 60, hours: float = 24.0) -> Frame:
    """Clicks alone, some seconds after the search."""
    asked = [START + pd.Timedelta(hours=hours * r) for r in range(requests)]
    return pd.DataFrame(
        {
            "request_id": [f"r{r}" for r in range(requests)],
            "request_time": asked,
            "event_time": [t + pd.Timedelta(seconds=5 + r % 50) for r, t in enumerate(asked)],
            "user_id": [f"u{r % 7}" for r in range(requests)],
            "query": [WORDS[r % 5] for r in range(requests)],
            "item_id": [r % 40 for r in range(requests)],
            "action": "click",
        }
    )


def written(folder: Path, events: Frame, items: Frame = ITEMS) -> tuple[Path, Path]:
    paths = folder / "events.parquet", folder / "items.parquet"
    events.to_parquet(paths[0])
    items.to_parquet(paths[1])
    return paths


def seen(folder: Path, events: Frame, items: Frame = ITEMS) -> Inspection:
    return inspect(*written(folder, events, items), NOW)


def renamed(frame: Frame, **names: str) -> Frame:
    return frame.assign(action=frame["action"].replace(names))


def columns(found: Inspection) -> dict[str, str | None]:
    return {role: choice.column for role, choice in found.roles.items()}


def action(found: Inspection, name: str) -> Action:
    return next(a for a in found.actions if a.name == name)


def notes(found: Inspection) -> dict[str, str]:
    return {o.column: o.why for o in found.others}
