"""The journal of acknowledged events: the contract between a history writer and what keeps them.

An embedded online store has its journal in files of the home (``prerank.online.file_log``); with
Redis, where several hosts write, the journal is in Redis too (``prerank.online.stream_log``).

A log is one shard's, and has one owner at a time, from opening until ``close``. What is merged into
the online store again changes nothing (``history.merged``), so a log may give a record again; it
never leaves one out.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

Merged = Callable[[], None]
"""To be called when the records are in the online store: they need not be given again.

Raises NotReadyError where the users were not this owner's all along while they were written.
"""


class Batch(NamedTuple):
    """Some acknowledged records, in their order.

    Attributes:
        records: what was acknowledged, or whatever else is found in the journal.
        own: whether this owner sets aside what is no event; several read the same records.
        merged: see ``Merged``.
    """

    records: Sequence[Any]
    own: bool
    merged: Merged


class EventLog(Protocol):
    """What the owner of a shard of users acknowledged. Safe to share between threads."""

    @property
    def stale(self) -> bool:
        """Whether there is more to merge than what was appended here; ``unmerged`` gives it."""

    def append(self, records: Sequence[Mapping[str, Any]]) -> Merged:
        """Keep records; durable on return.

        Raises:
            NotReadyError: the users have another owner, or the journal cannot be reached.
            OSError: the disk refuses. Nothing is acknowledged in either case.
        """

    def unmerged(self) -> Iterator[Batch]:
        """What is not merged yet of every shard's journal, up to its present end.

        All are read since the number of writers, and so a user's writer, may have changed.
        """

    def save(self) -> None:
        """Write down what is merged; a failure is logged, and costs the next owner time only."""

    def set_aside(self, letters: Sequence[tuple[Any, str]]) -> None:
        """Keep records that can enter no history, each with the reason, once.

        Raises:
            OSError, NotReadyError: they could not be kept.
        """

    def cut(self) -> None:
        """Tell that all there is now is merged, and nobody appends: ``tidy`` may work up to it."""

    def tidy(self, passive: Collection[str]) -> None:
        """Remove what no replay needs, where that is due, and what is older than is allowed.

        It is due, too, when users were forgotten: nothing of theirs is left.

        Args:
            passive: actions that enter no history.
        """

    def purge(self) -> None:
        """Take out what is of users who were forgotten, merged or not; nobody may append.

        ``tidy`` does the same where the owner is one that merges.
        """

    def close(self) -> None:
        """Let another owner have the users."""
