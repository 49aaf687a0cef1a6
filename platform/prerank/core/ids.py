"""Identities: item ids as int64 keys, and the stable hashes of requests and events.

Integer ids are used as they are; string ids become xxh3-64, as signed int64, with a seed that the
manifest keeps. Python's own ``hash`` is salted per process, so replicas would disagree about it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import xxhash
from numpy.typing import NDArray

from prerank.core.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

JSON_SAFE = 1 << 53
"""A JSON integer beyond this has already lost digits in many parsers."""

STRAY_SHARE = 0.01
"""Up to this share of rows may hold a non-integer id in an integer log; they are quarantined."""

SEPARATOR = "\x1f"
"""Joins the parts of what is hashed."""
_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,18}", re.ASCII)

IdKind = Literal["integer", "string"]


def canonical_integer(text: str) -> int | None:
    """The int64 that ``text`` spells without sign, zeros or blanks to spare; else None."""
    if not _INTEGER.fullmatch(text):
        return None
    value = int(text)
    return value if -(1 << 63) <= value < 1 << 63 else None


def canonical_integers(texts: pa.Array) -> NDArray[np.int64] | None:
    """Int64 [n] of texts each of which is a ``canonical_integer``; None where one is not."""
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        values = texts.cast(pa.int64())
    except pa.ArrowInvalid:
        return None
    # What is not spelled so (007, +7) is another id.
    if values.null_count or not pc.all(pc.equal(values.cast(pa.string()), texts)).as_py():
        return None
    found: NDArray[np.int64] = values.to_numpy()
    return found


def non_integers(refs: Collection[str]) -> list[str]:
    """Those of some ids that are no ``canonical_integer``."""
    if _all_integers(refs) is not None:
        return []
    return [ref for ref in refs if canonical_integer(ref) is None]


def _all_integers(refs: Collection[str]) -> NDArray[np.int64] | None:
    import pyarrow as pa

    return canonical_integers(pa.array(refs, pa.string(), size=len(refs)))


def _hash(text: str, seed: int = 0) -> int:
    # Lone surrogates can arrive through JSON; they must not become a server error.
    digest = xxhash.xxh3_64_intdigest(text.encode("utf-8", "surrogatepass"), seed=seed)
    return digest - (1 << 64) if digest >= 1 << 63 else digest


def hash_all(texts: Iterable[str | None]) -> NDArray[np.int64]:
    """xxh3-64 of each text as signed int64 [n]; None hashes as the empty text."""
    return np.array([_hash(t or "") for t in texts], dtype=np.int64)


def hash_column(texts: pa.Array) -> NDArray[np.int64]:
    """``hash_all`` of a column of text."""
    values = texts.fill_null("").cast("binary").to_pylist()
    hashes = np.fromiter(map(xxhash.xxh3_64_intdigest, values), np.uint64, len(values))
    return hashes.view(np.int64)


def request_id(query: str, request_time_us: int, user_id: str) -> str:
    """Request id (16 hex digits) of a request that brings none; ``query`` is normalised.

    A normalised query holds no separator and comes first, so no two triples join to one text.
    """
    text = SEPARATOR.join((query, str(request_time_us), user_id))
    return f"{_hash(text) % (1 << 64):016x}"


def event_id(request_id: str, item_key: int, action: str, event_time_us: int) -> int:
    """Event id (signed int64) of an event that brings none.

    Args:
        request_id: canonical request id.
        item_key: int64 key of the item.
        action: canonical action.
        event_time_us: microseconds since 1970, UTC.
    """
    return given_event_id(event_identity(request_id, item_key, action, event_time_us))


def event_identity(request_id: str, item_key: int, action: str, event_time_us: int) -> str:
    """The text whose hash is the id of an event that brings none; arguments of ``event_id``."""
    return SEPARATOR.join((str(item_key), str(event_time_us), action, request_id))


def given_event_id(text: str) -> int:
    """Event id (signed int64) of an event that brings one."""
    return _hash(text)


@dataclass(frozen=True)
class ItemIds:
    """How the caller's item ids become int64 keys.

    Attributes:
        kind: "integer" or "string"; one log has one kind.
        seed: seed of the hash; of no effect on integer ids.
    """

    kind: IdKind
    seed: int = 0

    def to_key(self, value: int | str) -> int:
        """Key (int64) of an id as a caller sends it.

        Raises:
            DataError: an integer beyond 2^53, or an id of the other kind.
        """
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise DataError(f"Item id {value!r} is neither an integer nor a string.")
        if isinstance(value, int):
            if self.kind == "string":
                raise DataError(
                    f"Item id {value} is an integer, but this log's ids are strings: "
                    f'send "{value}", quoted, if that is the id.'
                )
            if abs(value) > JSON_SAFE:
                raise DataError(
                    f"Item id {value} is beyond 2^53, where JSON integers lose digits: "
                    "send it as a string."
                )
            return value
        key = self.key_of_text(value)
        if key is None:
            # A caller of the API may have sent a long one: the error repeats its beginning.
            raise DataError(f"Item id {value[:60]!r} is not an integer, but this log's ids are.")
        return key

    def key_of_text(self, text: str) -> int | None:
        """Key of an id in its text form; None where an integer was due and it is none."""
        if self.kind == "integer":
            return canonical_integer(text)
        return _hash(text, self.seed)

    def keys(self, refs: Sequence[str]) -> NDArray[np.int64]:
        """Keys int64 [n] of distinct ids in their text form, all of the right kind.

        Raises:
            DataError: two of them share a key.
        """
        keys = _all_integers(refs) if self.kind == "integer" else None
        if keys is None:
            keys = np.array([self.key_of_text(r) for r in refs], dtype=np.int64)
        order = np.argsort(keys, kind="stable")
        same = np.flatnonzero(keys[order][1:] == keys[order][:-1])
        if same.size:
            one, two = refs[order[same[0]]], refs[order[same[0] + 1]]
            raise DataError(
                f"Item ids {one!r} and {two!r} share the hash {keys[order[same[0]]]}. "
                f"Set another `hash_seed` in the mapping (now {self.seed}) and ingest again."
            )
        return keys


def kind_of(
    catalogue: Collection[str], log: Mapping[str, int], *, catalogue_ints: bool, log_ints: bool
) -> IdKind:
    """Read the kind of ids off the data.

    Args:
        catalogue: ids of the catalogue as text.
        log: id as text -> rows, over the whole log.
        catalogue_ints: the catalogue's column is numeric (12 rather than '12').
        log_ints: the log's column is numeric.

    Raises:
        DataError: the two cannot be of one kind.
    """
    odd_item = next(iter(non_integers(catalogue)), None)
    strays = {ref: log[ref] for ref in non_integers(log)}
    if odd_item is not None and (log_ints or catalogue_ints):
        raise DataError(
            f"The log's item ids are integers, the catalogue has {odd_item!r}. '12' and 12 must "
            "not be mixed: give both as integers, or store both columns as strings."
        )
    if odd_item is not None:
        return "string"
    share = sum(strays.values()) / max(sum(log.values()), 1)
    has_items = len(catalogue) > 0
    if share <= STRAY_SHARE and (has_items or not strays or log_ints):
        return "integer"
    if has_items or log_ints or catalogue_ints:
        raise DataError(
            f"The catalogue's item ids are integers, but {share:.0%} of the log's rows have ids "
            f"such as {next(iter(strays))!r}. Give both in one form; or set `ids: string` (all "
            "ids are text) or `ids: integer` (such rows are quarantined) in the mapping."
        )
    return "string"
