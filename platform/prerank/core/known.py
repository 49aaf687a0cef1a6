"""What a process knows of a home in an object store: by its last look, and by what it shared."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath

from prerank.core.manifests import Manifest, Stored, all_keys, below, inside_of, unit_of


class Known:
    """Manifests of folders, and files that are staged: shared, in folders not published yet.

    Paths are below the home. Safe to share between threads.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._manifests: dict[str, Manifest] = {}
        self._staged: dict[str, Stored] = {}
        self._keys: dict[tuple[str, int, int], str] = {}

    def manifest(self, unit: PurePosixPath | str) -> Manifest | None:
        """Of a folder; None where it is not published."""
        return self._manifests.get(str(unit))

    def units(self, folder: str) -> list[str]:
        """Published folders of a folder."""
        with self._lock:
            return [unit for unit in self._manifests if unit.rpartition("/")[0] == folder]

    @property
    def keys(self) -> set[str]:
        """Objects that some manifest names."""
        with self._lock:
            return all_keys(self._manifests.values())

    def learn(self, unit: str, manifest: Manifest) -> None:
        """A folder is published."""
        with self._lock:
            self._manifests[unit] = manifest
            self.mark({f"{unit}/{path}": stored for path, stored in manifest.files.items()})

    def drop(self, unit: str) -> None:
        """A folder is published no more."""
        with self._lock:
            self._manifests.pop(unit, None)

    def stage(self, files: Mapping[str, Stored]) -> None:
        """Files are shared, for a folder that is published later."""
        with self._lock:
            self._staged |= files
            self.mark(files)

    def unstage(self, paths: Iterable[str]) -> list[Stored]:
        """They are so no more."""
        with self._lock:
            gone = [self._staged.pop(path, None) for path in list(paths)]
        return [stored for stored in gone if stored]

    def staged(self, path: PurePosixPath) -> dict[str, Stored]:
        """Those that are ``path`` or lie below it."""
        with self._lock:
            return below(self._staged, path)

    def mark(self, files: Mapping[str, Stored]) -> None:
        """Know files again when a folder that takes the place of theirs has them too."""
        with self._lock:
            for path, stored in files.items():
                mark = inside_of(PurePosixPath(path)), stored.size, stored.mtime_ns
                self._keys[mark] = stored.key

    def key(self, path: PurePosixPath, size: int, mtime_ns: int) -> str | None:
        """The object that has a file of this size and time already; None for none."""
        return self._keys.get((inside_of(path), size, mtime_ns))

    def there(self, paths: Iterable[PurePosixPath]) -> dict[str, Stored]:
        """What the store has of files, and of those below folders."""
        found: dict[str, Stored] = {}
        with self._lock:
            for path in paths:
                for unit, manifest in self._manifests.items():
                    own = PurePosixPath(unit)
                    if own.is_relative_to(path) or path.is_relative_to(own):
                        files = {f"{unit}/{p}": stored for p, stored in manifest.files.items()}
                        found |= below(files, path)
                found |= below(self._staged, path)
        return found

    def is_unpublished(self, path: str) -> bool:
        """Whether a path is in a folder that is being written."""
        unit = unit_of(PurePosixPath(path))
        return unit is None or str(unit) not in self._manifests
