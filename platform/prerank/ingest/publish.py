"""How a new log takes the place of the old one: written beside it, then one file is switched.

    log/<log id>-<n>/   everything is written here, and synced
    log/current.json    replaced: from now on this folder is the log

An ingest that is killed, or finds the disk full, has therefore published all or nothing. Feature
tables of a log that was started over outlive it, since a live model may need them: they name its
``log_id``, and builds refuse them (``prerank.core.feature_sets``). Folders that are not the log are
removed by the next ingest, before it writes; until then a reader that began on the log of before
can finish (``Home.pin``).
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from prerank.core.errors import DamagedError, StateError
from prerank.core.files import publish, remove, sync_folder, sync_tree, write_json
from prerank.core.forgotten import NOBODY, Forgotten
from prerank.core.home import Home


@contextmanager
def new_log(home: Home, starts_over: bool, forgotten: Forgotten = NOBODY) -> Iterator[Home]:
    """``home`` with an empty folder as its log, published when the block ends without an error.

    Removes what earlier ingests left. Only one ingest of a home may run at a time.

    Args:
        home: not pinned.
        starts_over: the log is another one than before, and not the one of before grown.
        forgotten: users of whom it holds nothing.

    Raises:
        StateError: somebody else was forgotten meanwhile, from another node.
        DamagedError: the pointer is damaged, and the home is not started over.
        OSError: the disk refuses; the log of before stays.
        PrerankError: the object store does; likewise.
    """
    new = _empty(home, starts_over)
    try:
        yield new
        sync_tree(new.log)
        # The folder must be on disk before a file names it.
        for folder in (new.log.parent, home.root):
            sync_folder(folder)
        publish(new.log)
        home.look(home.root)
        if Forgotten.of(home) != forgotten:
            raise StateError(
                "Users were forgotten while the log was written, which may hold them. The log of "
                "before stays: run this command again."
            )
        write_json(home.pointer, {"folder": new.log.name})
    finally:
        if home.log != new.log:
            remove(new.log)


def _empty(home: Home, starts_over: bool) -> Home:
    try:
        remove_all_but_the_log(home)
    except DamagedError:
        if not starts_over:
            raise
        home.pointer.unlink()
    number = 0 if home.log == home.root else _number(home.log)
    log_id = uuid.uuid4().hex[:8] if starts_over else home.log_id
    # In an object store, whatever another ingest writes at the same time has another name.
    own = f"{uuid.uuid4().hex[:8]}-" if home.store else ""
    folder = home.pointer.with_name(f"{log_id}-{own}{number + 1}")
    remove(folder)
    folder.mkdir(parents=True)
    return replace(home, pinned=folder)


def _number(log: Path) -> int:
    """How many logs of its id there were, with this one."""
    last = log.name.rpartition("-")[2]
    return int(last) if last.isdigit() else 0


def remove_all_but_the_log(home: Home, later: bool = False) -> None:
    """Remove what earlier ingests left; only where none is running.

    In an object store another node may be about to publish one that is ``later`` than the log.
    """
    for folder in home.pointer.parent.glob("*-*"):
        spared = home.store and not later and _number(folder) > _number(home.log)
        if folder != home.log and not spared:
            remove(folder)
    # A log in the root: without its manifest it may be anybody's.
    in_root = (home.root / "manifest.json").exists()
    if home.log != home.root or not in_root:
        remove(home.refused)
    if home.log != home.root and in_root:
        for name in ("events", "items", "manifest.json"):
            remove(home.root / name)
