"""A day's work: a live installation learns of new events and items, without a training.

    ingest  ->  features  ->  online store  ->  items added to the index

Each step is whole or not done, and done again it changes nothing: a run that was cut off is run
again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from prerank.config import JobConfig
from prerank.core.home import Home
from prerank.core.ray_tasks import connect
from prerank.features.build import build_features
from prerank.ingest.additions import read_items
from prerank.ingest.report import IngestReport
from prerank.online.materialise import materialise
from prerank.pipeline import Stages
from prerank.registry import tracking
from prerank.registry import versions as registry
from prerank.registry.additions import AddedItems, add_items
from prerank.registry.bundle import load_bundle


@dataclass(frozen=True)
class Updated:
    """What a day's work did.

    Attributes:
        ingested: what became of the rows; None where there were none.
        online: what ``materialise`` says of the online store.
        added: items that joined the champion's index; None where none were given, or there is no
            champion.
    """

    ingested: IngestReport | None
    online: dict[str, Any]
    added: AddedItems | None


def update(
    home: Home,
    config: JobConfig,
    add: Callable[[], IngestReport | None],
    items: str | Path | None = None,
) -> Updated:
    """Bring ``home``, its online store and the champion's index up to date.

    Args:
        home: with a log.
        config: of the features.
        add: adds to the log; None where there was nothing to add.
        items: catalogue of the new and changed items; None where there are none.
    """
    connect()
    stages = Stages(4 if items else 3)
    with stages("ingest"):
        report = add()
        tqdm.write(str(report) if report else "nothing new")
    with stages("features"):
        build_features(home, config.features)
    with stages("feature store"):
        online = materialise(home)
    added = None
    if items is not None:
        with stages("index"):
            added = _index(home, items)
    return Updated(report, online, added)


def _index(home: Home, path: str | Path) -> AddedItems | None:
    tracking.connect(home)
    champion = registry.alias_version(registry.CHAMPION)
    if champion is None:
        tqdm.write("no version is the champion: there is no index to add to")
        return None
    items, remarks = read_items(path, home)
    for remark in remarks:
        tqdm.write(f"note: {remark}")
    return add_items(home, load_bundle(registry.download(home, champion)), champion, items)
