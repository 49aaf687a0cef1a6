"""What a command needs, asked for before it starts: a stage's work is not lost to a missing server.

Each check raises one error that names the variable or the option, and the fix.
"""

from __future__ import annotations

import glob
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from prerank.core.errors import ConfigError, StateError
from prerank.core.home import ENV, Home
from prerank.core.manifest import LogManifest
from prerank.core.places import absolute, is_glob, is_uri

SPACE_PER_INPUT = 5
"""Rough: events, feature tables, training set and online store, for each byte of the log."""
SPACE = 200 << 20
"""Bytes beside them: a model, its index, MLflow's files."""


def check_inputs(files: Mapping[str, str | Path | None]) -> None:
    """See that what an option names can be read; None where it was not given.

    What an object store has is asked for when it is read.

    Raises:
        ConfigError: naming the option.
    """
    for option, place in files.items():
        if place is None or is_uri(place):
            continue
        path = Path(absolute(str(place)))
        if is_glob(path):
            if not glob.glob(str(path), recursive=True):
                raise ConfigError(f"--{option} {place}: no file matches.")
            continue
        if not path.exists():
            raise ConfigError(f"--{option} {place}: there is no such file or folder.")
        if not os.access(path, os.R_OK):
            raise ConfigError(f"--{option} {place} cannot be read: check its permissions.")


def check_home(home: Home) -> None:
    """Make the home if need be, see that it can be written, and what is there now.

    Raises:
        ConfigError: it cannot be made or written, or its object store refuses access.
        NotReadyError: the object store does not answer.
    """
    home.create()
    try:
        with tempfile.TemporaryFile(dir=home.root):
            pass
    except OSError as error:
        raise ConfigError(
            f"{ENV}={home.root} cannot be written: {error.strerror}. Name another folder, or "
            "correct its permissions."
        ) from None
    home.look()


def check_log(home: Home) -> None:
    """See that a log was ingested, before Ray is started to work on it.

    Raises:
        StateError: it was not, or its manifest is damaged.
    """
    LogManifest.load(home)


def check_space(home: Home, *inputs: str | Path) -> None:
    """See that the home's disk has room for what a stage makes of ``inputs``, roughly.

    What an object store has counts as nothing.

    Raises:
        StateError: it has not.
    """
    need = SPACE + SPACE_PER_INPUT * sum(map(_size, inputs))
    free = shutil.disk_usage(home.root).free
    if free < need:
        raise StateError(
            f"the disk of {ENV}={home.root} has {free / 1e6:,.0f} MB free; about "
            f"{need / 1e6:,.0f} MB are needed. Make room, or name a folder on another disk."
        )


def check_services(home: Home, *, online: bool = False, registry: bool = False) -> None:
    """See that the online store and the MLflow server answer, those that are needed.

    Raises:
        ConfigError: a variable is not understood.
        NotReadyError: one does not answer, or refuses the log-in.
    """
    if home.store:
        _check_shared(home, online, registry)
    if online:
        from prerank.online.store import check_online

        check_online(home)
    if registry:
        from prerank.registry import tracking

        tracking.await_server(tracking.tracking_uri(home))


def _check_shared(home: Home, online: bool, registry: bool) -> None:
    """See that several nodes share what cannot lie in an object store."""
    from prerank.core.ray_tasks import several_nodes
    from prerank.online.store import REDIS_ENV
    from prerank.registry.tracking import URI_ENV

    for needed, variable, what, fix in (
        (online, REDIS_ENV, "features for serving", "host:port of a Redis"),
        (registry, URI_ENV, "MLflow's runs and versions", "the address of an MLflow server"),
    ):
        if not needed or os.environ.get(variable):
            continue
        if several_nodes():
            raise ConfigError(
                f"{variable} is not set, so {what} would go to a file of this node, which other "
                f"nodes do not see. Set it to {fix}, for this command and for Ray's nodes."
            )
        print(f"note: {variable} is not set: {what} go to a file of this machine, in {home.root}")


def _size(place: str | Path) -> int:
    if is_uri(place):
        return 0
    path = Path(absolute(str(place)))
    found = [Path(p) for p in glob.glob(str(path), recursive=True)] if is_glob(path) else [path]
    files = [f for p in found for f in (p.rglob("*") if p.is_dir() else [p])]
    return sum(file.stat().st_size for file in files if file.is_file())
