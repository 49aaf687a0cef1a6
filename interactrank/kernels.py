"""How kernels are compiled, and where what was compiled is kept.

numba keeps a compiled function beside its source, or by the path of its source, until the text of
that one file changes. Neither serves here. A job of `ray job submit` runs from a copy of the code
that no other job shares, and would compile every kernel anew, which takes a minute. And a kernel
holds code and constants of other modules, and would outlive their change. So kernels are kept in
the user's cache folder, by the digest of the whole package that they belong to, wherever it lies.
And the workers of a job, which meet the same kernel at the same time, let one of them compile it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from typing import Any

import numba as nb
from numba.core import caching, config
from numba.core.compiler_lock import global_compiler_lock

VERSIONS_KEPT = 20
"""Digests whose kernels are kept, those used last; some 6 MB each."""
_FILES = set[str]()
"""Modules that have kernels."""
_COMPILING = set[str]()
"""Kernels that this process has to itself."""


def kernel(function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Compile a function with numba when it is first called, to run without the GIL.

    Args:
        function: of scalars and NumPy arrays.
        options: of ``numba.njit``.
    """
    if function is None:
        return partial(kernel, **options)
    _FILES.add(function.__code__.co_filename)
    dispatcher = nb.njit(cache=True, nogil=True, **options)(function)
    if vars(config)["DISABLE_JIT"]:
        return dispatcher
    compile_now = dispatcher.compile

    def compile_once(signature: Any) -> Any:
        with _alone(dispatcher.stats.cache_path, function):
            return compile_now(signature)

    # What numba calls for types that it has not met; it looks into its cache first.
    dispatcher.compile = compile_once
    return dispatcher


@contextmanager
def _alone(folder: str | None, function: Callable[..., Any]) -> Iterator[None]:
    """Keep other processes from compiling a kernel meanwhile: they then find it in ``folder``.

    Kernels call each other in no circle, so no two processes wait for each other. A process that
    dies lets go.
    """
    name = f"{function.__module__}.{function.__qualname__}"
    # numba's own lock first: of two threads, one would else hold it and wait for the file.
    with global_compiler_lock, ExitStack() as until_compiled:
        if folder is not None and name not in _COMPILING:
            # A folder that is not there, or cannot be written, keeps no kernel either.
            with suppress(OSError):
                file = until_compiled.enter_context((Path(folder) / f"{name}.lock").open("w"))
                fcntl.flock(file, fcntl.LOCK_EX)
                _COMPILING.add(name)
                until_compiled.callback(_COMPILING.remove, name)
        yield


class KernelCache(caching.InTreeCacheLocator):
    """Tells numba where each ``kernel`` of a package is kept.

    What other libraries compile is left to numba, and so are kernels of a module in no package, and
    all where NUMBA_CACHE_DIR is set or no cache folder can be written.
    """

    def __init__(self, function: Callable[..., Any], file: str) -> None:
        super().__init__(function, file)  # type: ignore[no-untyped-call]
        package = _package(file)
        assert package is not None
        within = Path(file).parent.relative_to(package.parent)
        self._cache_path = str(_folder(package) / ".".join(within.parts))

    @classmethod
    def from_function(cls, py_func: Callable[..., Any], py_file: str) -> Any:
        """A locator, or None where numba's own are to be asked."""
        if py_file not in _FILES or _package(py_file) is None:
            return None
        try:
            return super().from_function(py_func, py_file)  # type: ignore[no-untyped-call]
        except (OSError, RuntimeError):  # no home folder, or one that cannot be written
            return None


@cache
def _package(file: str) -> Path | None:
    """Folder of the outermost package that a module belongs to; None for one in no package."""
    found, folder = None, Path(file).resolve().parent
    while (folder / "__init__.py").exists():
        found, folder = folder, folder.parent
    return found


@cache
def _folder(package: Path) -> Path:
    """Where the kernels of a package are kept, made ready; ones long unused are removed."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    kernels = Path(base) / "interactrank" / "kernels"
    # What lies there is run: nobody else may write it.
    kernels.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = kernels / digest(package)
    folder.mkdir(exist_ok=True)
    os.utime(folder)
    for old in sorted(kernels.iterdir(), key=_used)[:-VERSIONS_KEPT]:
        shutil.rmtree(old, ignore_errors=True)
    return folder


def _used(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except FileNotFoundError:  # another process was faster
        return 0.0


def digest(package: Path) -> str:
    """Of all source of a package, and of this one, whose kernels it may hold."""
    found = hashlib.sha256()
    for root in sorted({package, Path(__file__).resolve().parent}, key=lambda p: p.name):
        for file in sorted(root.rglob("*.py")):
            text = file.read_bytes()
            found.update(f"{root.name}/{file.relative_to(root)} {len(text)}\n".encode() + text)
    return found.hexdigest()[:16]


if not vars(config)["CACHE_LOCATOR_CLASSES"]:
    own = [f"{c.__module__}.{c.__name__}" for c in caching.CacheImpl._locator_classes]
    # NUMBA_CACHE_DIR, where it is set, goes first.
    own.insert(1, f"{KernelCache.__module__}.{KernelCache.__name__}")
    vars(config)["CACHE_LOCATOR_CLASSES"] = ",".join(own)
