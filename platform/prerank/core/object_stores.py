"""Object stores: opened, asked again while they fail for now, and their files found and copied.

``s3://`` and ``gs://`` are opened by PyArrow, every other scheme by fsspec and the package that it
names. A copy is tried again, each time after about twice the wait, when a store refuses it for now
(503, a stall, a broken connection) or delivers fewer bytes than the file has.
"""

from __future__ import annotations

import fnmatch
import os
import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.fs as pafs

from prerank.core.errors import ConfigError, NotReadyError, StateError, is_full

TRIES, FIRST_WAIT_S, CALL_S = 5, 0.5, 30.0
"""Tries of a call, the wait after the first, and how long a call may be without an answer."""
COPY_BYTES = 8 << 20

_CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or AWS_PROFILE), and AWS_REGION",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS (a key file)",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
}
_OTHER_NAMES = {"s3a": "s3", "s3n": "s3", "gcs": "gs", "abfs": "az", "abfss": "az"}
_REFUSED = re.compile(
    r"ACCESS_DENIED|AccessDenied|InvalidAccessKeyId|SignatureDoesNotMatch|\b(301|401|403)\b"
    r"|credential|unauthorized|forbidden|account_name|PERMANENT_REDIRECT",
    re.IGNORECASE,
)
_MISSING = re.compile(r"NO_SUCH_BUCKET|NoSuchBucket|RESOURCE_NOT_FOUND|\b404\b")
_FULL = re.compile(r"QuotaExceeded|StorageFull|InsufficientStorage|NotEnoughStorage|\b507\b")
_WILD = re.compile(r"[*\[]")

T = TypeVar("T")


@dataclass(frozen=True)
class StoredFile:
    """A file in a store: its URI and its size in bytes."""

    uri: str
    size: int


def stored_files(uri: str) -> list[StoredFile]:
    """The file that a URI names, those below the folder, or those that its wildcards match.

    Sorted by URI; ``*`` matches within a name, ``**`` across folders too.

    Raises:
        ConfigError: the scheme is not known, nothing is there, or access is refused.
        NotReadyError: the store does not answer.
    """
    found = retried(lambda: _listed(uri), uri)
    if not found:
        raise ConfigError(f"{uri} names no file: check the bucket and the path.")
    return sorted(found, key=lambda file: file.uri)


def copied(file: StoredFile, to: Path) -> None:
    """Copy a file to the path ``to``, whole.

    Raises:
        ConfigError: it is gone, or access is refused.
        NotReadyError: the store does not answer, or breaks off at each try.
    """

    def copy() -> None:
        system, path = opened(file.uri)
        # As it lies there: Arrow would unpack what is called .gz or .zst.
        with (
            system.open_input_stream(path, compression=None) as stream,
            to.open("wb") as out,
        ):
            while chunk := stream.read(COPY_BYTES):
                out.write(chunk)
            if out.tell() != file.size:
                raise OSError(f"{out.tell():,} of {file.size:,} bytes came")

    retried(copy, file.uri)


def retried(call: Callable[[], T], uri: str, done: str = "read") -> T:
    """What ``call`` returns, tried again while the store of ``uri`` fails for now.

    ``done`` is what ``call`` has done to the URI, for messages.

    Raises:
        ConfigError: what another try would not change: no such file, no access.
        StateError: the store is full.
        OSError: the disk of this machine is.
        NotReadyError: every try failed.
    """
    for attempt in range(TRIES):
        if attempt:
            # Spread, or all tasks would come back at the same moment.
            time.sleep(FIRST_WAIT_S * 2 ** (attempt - 1) * random.uniform(0.5, 1.5))
        try:
            return call()
        except (OSError, pa.ArrowException) as error:
            if is_full(error):
                raise
            _refuse(error, uri, done)
            last = str(error)
    raise NotReadyError(
        f"{uri}: the store failed {TRIES} times in a row, last with: {last}. What was "
        "there before stays; run the command again when the store answers."
    )


def is_missing(error: Exception) -> bool:
    """Whether an error of a store says that there is no such object."""
    return isinstance(error, FileNotFoundError) or bool(_MISSING.search(str(error)))


def _refuse(error: Exception, uri: str, done: str = "read") -> None:
    """Raise where another try would end the same way."""
    text = str(error)
    if is_missing(error):
        raise ConfigError(f"{uri} is not there: check the bucket and the path.") from None
    if _FULL.search(text):
        raise StateError(
            f"{uri} cannot be written: the store is full ({text[:200]}). What was there before "
            "stays. Make room, or raise its quota, and run the command again."
        ) from None
    if isinstance(error, PermissionError) or _REFUSED.search(text):
        variables = _CREDENTIALS.get(scheme_of(uri), "the variables of its store")
        raise ConfigError(
            f"{uri} may not be {done}: {text[:300]}. Set {variables}, for this command and, on a "
            "cluster, for Ray's nodes."
        ) from None


def scheme_of(uri: str) -> str:
    """Scheme of a URI: of several names of a store, the first one."""
    scheme = urlsplit(uri).scheme.lower()
    return _OTHER_NAMES.get(scheme, scheme)


def opened(uri: str) -> tuple[pafs.FileSystem, str]:
    """The file system of a URI, and its path there."""
    scheme, path = scheme_of(uri), uri.partition("://")[2]
    if scheme == "s3":
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        system = pafs.S3FileSystem(
            endpoint_override=endpoint,
            connect_timeout=CALL_S,
            request_timeout=CALL_S,
            # Tries and waits are ours.
            retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=1),
        )
        return system, path
    if scheme == "gs":
        return pafs.GcsFileSystem(), path
    import fsspec

    try:
        # What others write must be seen at once.
        system, path = fsspec.core.url_to_fs(uri, use_listings_cache=False)
    except (ImportError, ValueError) as error:
        _refuse(OSError(str(error)), uri)
        raise ConfigError(
            f"{uri} cannot be opened: {error}. Known are s3://, gs://, and what fsspec knows with "
            "its package installed (az:// needs adlfs)."
        ) from None
    return pafs.PyFileSystem(_Handler(system)), path


class _Handler(pafs.FSSpecHandler):
    """PyArrow's, which knows a time of change by one of the names that stores have for it."""

    def get_file_info_selector(self, selector: pafs.FileSelector) -> list[pafs.FileInfo]:
        """What lies in a folder, with times."""
        found = super().get_file_info_selector(selector)
        if all(info.mtime_ns is not None for info in found if info.is_file):
            return found
        depth = None if selector.recursive else 1
        told = self.fs.find(selector.base_dir, maxdepth=depth, detail=True)
        times = {path.strip("/"): info.get("last_modified") for path, info in told.items()}
        return [
            pafs.FileInfo(
                info.path, info.type, size=info.size, mtime=times.get(info.path.strip("/"))
            )
            for info in found
        ]


def _listed(uri: str) -> list[StoredFile]:
    wild = _WILD.search(uri)
    base = uri[: wild.start()].rpartition("/")[0] if wild else uri.rstrip("/")
    system, path = opened(base)
    if not wild:
        info = system.get_file_info(path)
        if info.type == pafs.FileType.File:
            return [StoredFile(uri, info.size)]
    found = []
    for each in system.get_file_info(pafs.FileSelector(path, recursive=True, allow_not_found=True)):
        stored = StoredFile(base + each.path.strip("/")[len(path.strip("/")) :], each.size or 0)
        if each.type == pafs.FileType.File and (not wild or _matches(stored.uri, uri)):
            found.append(stored)
    return found


def _matches(uri: str, pattern: str) -> bool:
    """Whether a URI matches, or lies in a folder that does."""
    if "**" in pattern:
        return fnmatch.fnmatchcase(uri, pattern.replace("**/", "*"))
    parts, wanted = uri.split("/"), pattern.rstrip("/").split("/")
    return len(parts) >= len(wanted) and all(map(fnmatch.fnmatchcase, parts, wanted))
