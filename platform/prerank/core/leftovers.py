"""What is of nobody any more: objects that no manifest names, and what nodes have of before.

After users were forgotten (``prerank.core.forgotten``) nothing that may be theirs must wait for the
next command to be tidied: not in the store, and in no node's cache folder. A node learns of it by
the file that says who was forgotten, which changes when a forgetting begins and when it ends. At
its next look it then looks at everything, and sweeps its folder.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path, PurePosixPath

from prerank.core.files import held
from prerank.core.forgotten import Forgotten
from prerank.core.manifests import FOLDERS, SUFFIX, Manifest, all_keys, unit_of
from prerank.core.objects import Objects
from prerank.core.taken_out import blank, write_without

OF_USERS = ("log", "features", "training_set", "quarantine")
"""Folders of a home that hold rows of users."""
SCRATCH = (".ingest", ".served")
"""In which an ingest works."""
YOUNG_S = 60.0
"""A file that is being written beside another one takes less than this."""
_SWEPT = ".store/swept"
_FORGOTTEN = "forgotten.json"
_UNIQUE = "?" * 32

logger = logging.getLogger(__name__)


def named(objects: Objects, family: str) -> set[str]:
    """Objects that a manifest of a folder, or of its folders, names."""
    above = family if FOLDERS.get(family, 1) > 1 else ""
    manifests = [
        each.name
        for each in objects.listed(above)
        if each.name.endswith(SUFFIX) and each.name.startswith(family)
    ]
    texts = {name: objects.read(name) for name in manifests}
    return all_keys(Manifest.of(text, name) for name, text in texts.items() if text)


def of_before(
    objects: Objects, folders: Iterable[str], until_s: float, timeless: bool = False
) -> set[str]:
    """Objects of folders, or handed from task to task, that were there at a time.

    Args:
        until_s: seconds since 1970, by the store's clock.
        timeless: with those that it tells no time of.
    """
    return {
        each.name
        for folder in folders
        for each in objects.listed(folder, deep=True)
        if (timeless if each.mtime_s is None else each.mtime_s <= until_s)
        and _is_of_folder(each.name)
    }


def purge(objects: Objects, until_s: float) -> int:
    """Remove what was there at a time and no manifest names, where users may stand; how many."""
    gone = of_before(objects, ["tmp"], until_s, True)
    for family in OF_USERS:
        gone |= of_before(objects, [family], until_s, True) - named(objects, family)
    objects.remove(sorted(gone))
    return len(gone)


def is_due(root: Path) -> bool:
    """Whether a cache folder is to be swept, since somebody was forgotten."""
    told, swept = root / _FORGOTTEN, root / _SWEPT
    if not told.exists():
        return False
    return not swept.exists() or swept.read_bytes() != told.read_bytes()


def sweep(root: Path, published: Collection[str]) -> None:
    """Take out of a cache folder what was being written there when users were forgotten.

    What a process of this node is at is left alone, and looked at again the next time. A task of
    another node's command that is still at work without its folder fails.

    Args:
        root: the cache folder.
        published: folders that the store has.

    Raises:
        DamagedError: the file that says who was forgotten is.
    """
    told = (root / _FORGOTTEN).read_bytes()
    until_ns = (root / _FORGOTTEN).stat().st_mtime_ns
    done = True
    with held(root / "ingest") as free:
        done = done and free
        if free:
            for name in SCRATCH:
                _remove_older(root / name, until_ns)
            for log in (root / "log").glob("*-*"):
                if f"log/{log.name}" not in published:
                    _remove_older(log, until_ns)
    # Published from here, and removed from elsewhere before this node looked.
    for folder in (*(root / "features").glob("[!.]*"), root / "training_set", root / "quarantine"):
        if folder.is_dir() and folder.relative_to(root).as_posix() not in published:
            with held(folder) as free:
                done = done and free
                if free:
                    _remove_older(folder, until_ns)
    for beside in _being_replaced(root):
        with held(beside.parent / ".".join(beside.name.split(".")[1:-2])) as free:
            done = done and free
            if free:
                _remove_older(beside, until_ns)
    for file in root.rglob(f".*.{_UNIQUE}.tmp"):
        # Whoever is writing it ends soon.
        if time.time() - file.stat().st_ctime < YOUNG_S:
            done = False
        else:
            file.unlink(missing_ok=True)
    _served(root)
    if done:
        (root / _SWEPT).parent.mkdir(exist_ok=True)
        (root / _SWEPT).write_bytes(told)


def _being_replaced(root: Path) -> Iterator[Path]:
    """What lies beside folders while they are replaced."""
    for parent in (root, *(root / name for name in FOLDERS)):
        for kind in ("partial", "old"):
            yield from list(parent.glob(f".*.{_UNIQUE}.{kind}"))


def _served(root: Path) -> None:
    """Take users out of what replicas wrote down and have not sent, be it that they died."""
    forgotten = Forgotten.read(root / _FORGOTTEN)
    for file in (root / "served").glob("*/day=*/.*"):
        try:
            if file.suffix == ".jsonl":
                blank(file, forgotten)
            elif file.suffix == ".parquet" and not write_without(file, file, forgotten):
                file.unlink()
        except FileNotFoundError:
            # It was sent meanwhile.
            continue


def _remove_older(path: Path, until_ns: int) -> None:
    """Remove a file, or those below a folder, that were written before a time; then the folder."""
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    left = 0
    for file in files:
        try:
            # A task that knows who was forgotten may be at work.
            if file.stat().st_mtime_ns <= until_ns:
                file.unlink()
            else:
                left += 1
        except FileNotFoundError:
            continue
    if path.is_dir() and not left:
        shutil.rmtree(path, ignore_errors=True)


def _is_of_folder(name: str) -> bool:
    """Whether an object is one of a folder's, or one that tasks handed to each other."""
    unit = unit_of(PurePosixPath(name))
    own = unit is not None and str(unit) != name and not name.endswith(SUFFIX)
    return own or name.startswith("tmp/")
