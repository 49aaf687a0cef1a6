"""Who was forgotten: users by a salted hash, so that what comes of them again is dropped.

``forgotten.json`` of a home holds a salt, made once, and a hash of each user's id. Whoever brings
rows of users into the home, or writes them where they are served, asks here first: `prerank
ingest`, the history writers, the served log. Nobody reads an id off a hash; whoever may read the
file and guesses an id can see whether it is there.
"""

from __future__ import annotations

import functools
import hashlib
import re
import secrets
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from prerank.core.errors import DamagedError
from prerank.core.files import locked, read_json, write_json


class Place(Protocol):
    """A home, as far as it is needed here: a cache folder asks without knowing of homes."""

    @property
    def root(self) -> Path:
        """Its folder."""

    def look(self, *folders: Path) -> None:
        """See what is there now."""


_WORD = re.compile(r"""[^\s,;|"'{}\[\]]+""")


@dataclass(frozen=True)
class Forgotten:
    """Some users, each by a hash: those of a home's file, or others by the same salt.

    Attributes:
        salt: of the home.
        hashes: of the users, 32 hex digits each.
    """

    salt: bytes = b""
    hashes: frozenset[str] = frozenset()

    @classmethod
    def of(cls, home: Place) -> Forgotten:
        """Those of ``home``; nobody where nobody was forgotten.

        Raises:
            DamagedError: the file cannot be read, and so nobody knows who was.
        """
        return cls.read(path_of(home))

    @classmethod
    def read(cls, path: Path) -> Forgotten:
        """Those of a file; nobody where there is none.

        Raises:
            DamagedError: it cannot be read.
        """
        try:
            found = read_json(path)
            return cls(bytes.fromhex(found["salt"]), frozenset(found["users"]))
        except FileNotFoundError:
            return cls()
        except (KeyError, TypeError, ValueError, DamagedError):
            raise DamagedError(
                f"{path} is damaged: it does not say who was forgotten. Put it back from a copy; "
                "without it, data of users who were forgotten may come in again."
            ) from None

    def hash_of(self, user: str) -> str:
        """The hash of a user's id."""
        text = user.encode("utf-8", "surrogatepass")
        return hashlib.blake2b(text, key=self.salt, digest_size=16).hexdigest()

    @property
    def digest(self) -> str:
        """Tells these users from others, in 32 hex digits."""
        text = " ".join(sorted(self.hashes)).encode()
        return hashlib.blake2b(text, key=self.salt, digest_size=16).hexdigest()

    def __bool__(self) -> bool:
        return bool(self.hashes)

    def __contains__(self, user: str) -> bool:
        return bool(self.hashes) and self.hash_of(user) in self.hashes

    def rows(self, users: pa.Array | pa.ChunkedArray) -> list[int]:
        """Where in a string column [n] they stand, ascending; each distinct user is hashed once."""
        if not self.hashes:
            return []
        column = users.combine_chunks() if isinstance(users, pa.ChunkedArray) else users
        encoded = column.dictionary_encode()
        known = [user is not None and user in self for user in encoded.dictionary.to_pylist()]
        if not any(known):
            return []
        there = pc.take(pa.array(known, pa.bool_()), encoded.indices).fill_null(False)
        return np.flatnonzero(there.to_numpy(zero_copy_only=False)).tolist()

    def mentioned_in(self, text: str) -> bool:
        """Whether a word of a text is one of them: for what is no row of known fields.

        Words end at blanks, commas, semicolons, bars, quotes and brackets.
        """
        return bool(self.hashes) and any(word in self for word in _WORD.findall(text))

    def named_in(self, record: Any) -> bool:
        """Whether a JSON value is of one of them: by its ``user_id``, or else by any word."""
        user = record.get("user_id") if isinstance(record, dict) else None
        if isinstance(user, str):
            return user in self
        text = record if isinstance(record, str) else orjson.dumps(record).decode()
        return self.mentioned_in(text)


NOBODY = Forgotten()


@dataclass
class Following:
    """Who was forgotten in a home, as of now: the file is read again when it changes.

    A look costs one question to the file system. Safe to share between threads. ``following``
    gives the one of a home.
    """

    home: Place
    _known: tuple[object, Forgotten] = field(default=(None, NOBODY), init=False)

    def now(self) -> Forgotten:
        """Those of now.

        Raises:
            DamagedError: the file is.
        """
        stamp = _stamp(path_of(self.home))
        known_at, known = self._known
        if stamp != known_at:
            known = Forgotten.of(self.home)
            self._known = stamp, known
        return known


@functools.lru_cache(maxsize=64)
def following(home: Place) -> Following:
    """What tells this process who was forgotten in ``home``."""
    return Following(home)


def path_of(home: Place) -> Path:
    """The file of a home that says who was forgotten."""
    return home.root / "forgotten.json"


def remember(home: Place, users: Collection[str]) -> Forgotten:
    """Write down that ``users`` are forgotten from now on; they alone, by the home's salt.

    Raises:
        DamagedError: the file is.
        StateError: another node wrote it at this moment, where it is in an object store.
    """
    path = path_of(home)
    with locked(path):
        # Another node may have forgotten somebody.
        home.look(home.root)
        before = Forgotten.of(home)
        salt = before.salt or secrets.token_bytes(16)
        named = Forgotten(salt, frozenset(map(Forgotten(salt).hash_of, users)))
        if not named.hashes <= before.hashes:
            since = read_json(path)["users"] if before.salt else {}
            now = datetime.now(UTC).isoformat(timespec="seconds")
            new = dict.fromkeys(sorted(named.hashes - before.hashes), now)
            write_json(path, {"salt": salt.hex(), "users": since | new})
    return named


def tell_nodes(home: Place) -> None:
    """Change the file of a home in an object store, at the end of a forgetting.

    A node that sees it change looks at everything, and lets go of what it still has of before
    (``prerank.core.leftovers``).
    """
    path = path_of(home)
    with locked(path):
        home.look(home.root)
        ended = datetime.now(UTC).isoformat(timespec="microseconds")
        write_json(path, read_json(path) | {"ended": ended})


def _stamp(path: Path) -> object:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size
