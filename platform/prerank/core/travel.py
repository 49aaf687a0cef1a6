"""What a task takes along to another node, where its home is in an object store.

Each node has a cache folder of its own. Paths below it, in a task or in its function, travel as
paths of the home, and become those of the cache folder where they arrive. What has been published a
task brings itself (``Home.fetch``). What has not, since it is still being written, is in no node's
view of the store: ``Carried`` says which of these files a task reads, and which it writes. They are
shared before it runs, and after.
"""

from __future__ import annotations

import io
import pickle  # nosec B403
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Generic, TypeVar

from prerank.core.files import REMOTES, fetch
from prerank.core.manifests import Stored
from prerank.core.storage import Store, store_at

_CACHE = ".cache-id"

T = TypeVar("T")
R = TypeVar("R")
Paths = Iterable[Path]
Cargo = Mapping[str, dict[str, Stored]]
"""By the URI of a home: objects by the path of their file below it."""


def _none(_: Any) -> Paths:
    return ()


@dataclass(frozen=True)
class Carried(Generic[T, R]):
    """A function of a task, and the files that a task needs on its node and leaves there.

    Attributes:
        function: of a task.
        reads: files and folders that it reads, and does not fetch itself.
        writes: those that it wrote, asked where it ran.
    """

    function: Callable[[T], R]
    reads: Callable[[T], Paths] = _none
    writes: Callable[[T], Paths] = _none

    def __call__(self, task: T) -> R:
        """The function of ``task``."""
        return self.function(task)


@dataclass(frozen=True)
class Done(Generic[R]):
    """What a task returned.

    Attributes:
        wrote: what it left.
        gone: by the URI of a home, files that it was given and removed.
    """

    result: R
    wrote: Cargo
    gone: Mapping[str, list[str]]


@dataclass(frozen=True)
class Call(Generic[T, R]):
    """A task on its way to a node.

    Attributes:
        function, task: of it.
        cargo: what it reads.
        caches: by the URI of a home, which cache folder the caller has.
        runs: by the URI of a home, the run that this is a task of.
        shares: whether the task may run on another node.
        batch: names the tasks that were sent together: what was published before, all of them see.
    """

    function: Carried[T, R]
    task: T
    cargo: Cargo
    caches: Mapping[str, str]
    runs: Mapping[str, str]
    shares: bool
    batch: str

    @classmethod
    def of(cls, function: Callable[[T], R], task: T, shares: bool, batch: str = "") -> Call[T, R]:
        """A task of this process, whose files are shared now."""
        carried = function if isinstance(function, Carried) else Carried(function)
        stores = _stores()
        cargo: Cargo = {}
        if shares:
            cargo = _shared(carried.reads(task), {})
        else:
            fetch(*carried.reads(task))
        for uri, files in cargo.items():
            store = store_at(uri)
            store.staged({path: s for path, s in files.items() if store.is_unpublished(path)})
        return cls(
            carried,
            task,
            cargo,
            {store.uri: cache_id(store) for store in stores},
            {store.uri: store.run for store in stores},
            shares,
            batch or secrets.token_hex(8),
        )

    def __call__(self) -> Done[R]:
        """Do it here."""
        for uri in self.runs:
            store_at(uri).look_once(self.batch)
        for uri, files in self.cargo.items():
            store_at(uri).take(files)
        wrote: Cargo = {}
        for path in self.function.writes(self.task):
            path.parent.mkdir(parents=True, exist_ok=True)
        try:
            result = self.function(self.task)
            if self.shares:
                wrote = _shared(self.function.writes(self.task), self.runs)
            gone = {
                uri: [path for path in files if not (store_at(uri).root / path).exists()]
                for uri, files in self.cargo.items()
            }
        finally:
            self._tidy(wrote)
        return Done(result, wrote, gone)

    def _tidy(self, wrote: Cargo) -> None:
        """Remove what nobody will look for on this node: files in folders being written."""
        for uri, cache in self.caches.items():
            store = store_at(uri)
            if cache_id(store) == cache:
                continue
            for path in (*self.cargo.get(uri, ()), *wrote.get(uri, ())):
                if store.is_unpublished(path):
                    (store.root / path).unlink(missing_ok=True)


def noted(done: Done[R]) -> R:
    """What a task returned; its folder is for this process as it left it."""
    for uri, paths in done.gone.items():
        store = store_at(uri)
        store.unstaged(paths)
        for path in paths:
            (store.root / path).unlink(missing_ok=True)
    for uri, files in done.wrote.items():
        store_at(uri).staged(files)
    return done.result


def packed(value: Any) -> bytes:
    """Pickled for another node."""
    # Ray takes a second to import, and whoever says what a task carries need not wait for it.
    from ray import cloudpickle

    class Pickler(cloudpickle.Pickler):
        def persistent_id(self, value: Any) -> tuple[str, str, bool] | None:
            return _of_home(value)

    out = io.BytesIO()
    Pickler(out).dump(value)  # type: ignore[no-untyped-call]
    return out.getvalue()


def unpacked(data: bytes) -> Any:
    """What was ``packed`` on another node."""
    return _Unpickler(io.BytesIO(data)).load()


def _stores() -> list[Store]:
    return [remote for remote in REMOTES.values() if isinstance(remote, Store)]


def _shared(paths: Paths, runs: Mapping[str, str]) -> Cargo:
    found: dict[str, dict[str, Stored]] = {}
    given = list(paths)
    for store in _stores():
        if own := [path for path in given if path.is_relative_to(store.root)]:
            found[store.uri] = store.share(own, runs.get(store.uri, ""))
    return found


def cache_id(store: Store) -> str:
    """Tells one cache folder from another, on whatever node."""
    path = store.root / _CACHE
    if not path.exists():
        store.root.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{_CACHE}.{secrets.token_hex(8)}")
        partial.write_text(secrets.token_hex(8))
        # Of two processes that come first one is late, and reads what the other one wrote.
        if not path.exists():
            partial.replace(path)
        partial.unlink(missing_ok=True)
    return path.read_text()


def _of_home(value: Any) -> tuple[str, str, bool] | None:
    """The URI of the home that a path is of, its path there, and whether it is text; else None."""
    if isinstance(value, (str, PurePath)):
        for store in _stores():
            root, text = str(store.root), str(value)
            if text == root or text.startswith(f"{root}/"):
                return store.uri, text[len(root) + 1 :], isinstance(value, str)
    return None


# Of tasks alone, which this program's processes send each other by Ray; Ray pickles them, too.
class _Unpickler(pickle.Unpickler):
    def persistent_load(self, there: tuple[str, str, bool]) -> str | Path:
        uri, name, is_text = there
        path = store_at(uri).root / name
        return str(path) if is_text else path
