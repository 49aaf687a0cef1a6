"""Checkpoints of trainings, which Ray Train keeps, on whichever node they are needed."""

from __future__ import annotations

from pathlib import Path

import pyarrow.fs as pafs

from prerank.core.errors import ConfigError
from prerank.core.files import replaced
from prerank.core.home import Home
from prerank.core.object_stores import retried
from prerank.registry.bundle import META


def fetch_bundle(home: Home, bundle: Path) -> bool:
    """Have the bundle of a checkpoint on this disk; False where it is gone.

    Args:
        home: local, or in an object store.
        bundle: a folder below the home's ``runs``.

    Raises:
        NotReadyError: the store does not answer.
    """
    store = home.store
    if (bundle / META).exists() or store is None:
        return (bundle / META).exists()
    name = bundle.relative_to(home.root).as_posix()

    def copy(to: Path) -> None:
        pafs.copy_files(store.path(name), str(to), source_filesystem=store.system)

    bundle.parent.mkdir(parents=True, exist_ok=True)
    try:
        with replaced(bundle) as folder:
            retried(lambda: copy(folder), f"{home.place}/{name}")
            # A store has no folders: where there is nothing, nothing is copied.
            if not (folder / META).exists():
                raise ConfigError(f"{home.place}/{name} is not there.")
    except ConfigError:
        return False
    return True
