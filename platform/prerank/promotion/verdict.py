"""What the gate found: its checks, the result, and the forms in which both are kept."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from prerank.core.errors import NotReadyError
from prerank.core.times import iso
from prerank.promotion.config import GateConfig
from prerank.registry.bundle import Version
from prerank.registry.gates import FAILED, PASSED

COMPARED = ("mrr", "recall@cut")
"""Metrics that must not fall below the champion's."""
Status = Literal["passed", "failed", "undecided"]


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: in a word or two.
        status: "undecided" where it could not be told; the configuration says what that counts as.
        text: what was found, or why it could not be told and what to do.
        numbers: the same for programs.
    """

    name: str
    status: Status
    text: str
    numbers: Mapping[str, Any] = field(default_factory=dict)


def _plain(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """As strict JSON has them: null for what is no finite number."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in numbers.items()
    }


@dataclass(frozen=True)
class Verdict:
    """What the gate says of a version.

    Attributes:
        version: that was judged.
        champion: that it was compared with; None where there was none.
        config: of the gate.
        at_us: when, microseconds since 1970.
        checks: in their order.
    """

    version: Version
    champion: Version | None
    config: GateConfig
    at_us: int
    checks: Sequence[Check]

    @property
    def stops(self) -> list[Check]:
        """The checks for which it failed."""
        counted = ("failed", "undecided") if self.config.undecided == "fail" else ("failed",)
        return [check for check in self.checks if check.status in counted]

    @property
    def result(self) -> str:
        """PASSED or FAILED."""
        return FAILED if self.stops else PASSED

    @property
    def reason(self) -> str:
        """Why it failed; else what was compared, with all that stayed undecided."""
        told = self.stops or [c for c in self.checks if c.name in COMPARED]
        told += [c for c in self.checks if c.status == "undecided" and c not in told]
        return "; ".join(f"{c.name} {c.status}: {c.text.rstrip('.')}" for c in told) + "."

    def table(self) -> str:
        """The checks as aligned lines, for a terminal."""
        against = f" against champion {self.champion}" if self.champion else ""
        width = max(len(check.name) for check in self.checks)
        lines = [f"gate of model version {self.version}{against}"]
        lines += [f"  {c.name:<{width}}  {c.status:<9}  {c.text}" for c in self.checks]
        return "\n".join([*lines, f"  {self.result.upper()}"])

    def to_dict(self) -> dict[str, Any]:
        """gate.json."""
        return {
            "version": self.version.number,
            "run_id": self.version.run_id,
            "champion": self.champion.number if self.champion else None,
            "at": iso(self.at_us),
            "result": self.result,
            "reason": self.reason,
            "config": asdict(self.config),
            "checks": [{**asdict(c), "numbers": _plain(c.numbers)} for c in self.checks],
        }

    def markdown(self) -> str:
        """gate.md."""
        against = f"champion {self.champion}" if self.champion else "no champion"
        rows = [f"| {c.name} | {c.status} | {c.text.replace('|', '&#124;')} |" for c in self.checks]
        settings = ", ".join(f"{k} {v}" for k, v in asdict(self.config).items())
        return "\n".join(
            [
                f"# Gate of model version {self.version}: {self.result}",
                "",
                f"At {iso(self.at_us)}, against {against}; {settings}.",
                "",
                "| check | result | found |",
                "|---|---|---|",
                *rows,
                "",
            ]
        )

    def raise_if_failed(self) -> None:
        """End a command where the version did not pass.

        Raises:
            NotReadyError: it did not; the message has the reason.
        """
        if self.stops:
            raise NotReadyError(
                f"model version {self.version} did not pass the gate: {self.reason} What is served "
                f"stays as it is. To promote it all the same: prerank promote --version "
                f"{self.version} --without-gate."
            )
