"""What a search for settings found, and whether it is worth a change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prerank.evaluation.results import Difference
from prerank.evaluation.search_space import Value


@dataclass(frozen=True)
class Tuned:
    """What a search found.

    Attributes:
        study: its name.
        trials: by their number, with "values", "mrr" (its mean at the origins it came to), "error"
            (of that mean), "origins" and "state".
        best: number of the best one.
        values: of the best one.
        gained: at the last origin, the best minus the configuration; None where they are one.
        done: whether as many trials as asked for are there, and the best is confirmed.
    """

    study: str
    trials: Sequence[Mapping[str, Any]]
    best: int
    values: Mapping[str, Value]
    gained: Difference | None
    done: bool

    @property
    def beyond_noise(self) -> bool:
        """Whether the best is better than the configuration, and not by chance."""
        return self.gained is not None and self.gained.ci[0] > 0

    def verdict(self) -> str:
        """Whether to change anything, in a sentence."""
        if self.gained is None:
            if not self.done:
                return "Cut off before the best was confirmed: the same command goes on."
            return "Nothing that was tried is better than the configuration: keep it."
        d = self.gained
        told = f"{d.difference:+.4f} MRR (95% {d.ci[0]:+.4f} to {d.ci[1]:+.4f}, p = {d.p:.3f})"
        if self.beyond_noise:
            return f"Better than the configuration on requests that chose nothing: {told}."
        return f"Within noise of the configuration on requests that chose nothing: {told}."


def table(found: Tuned, limit: int = 10) -> str:
    """The best trials that came to every origin, and the configuration itself (trial 0).

    ± is the standard error over requests.
    """
    whole = [t for t in found.trials if t["state"] == "complete"]
    best = sorted(whole, key=lambda t: -t["mrr"])[:limit]
    best += [t for t in whole if t["number"] == 0 and t not in best]
    names = [*found.values]
    short = [name.rpartition(".")[2] for name in names]
    rows = [["trial", "mrr", *short]]
    for t in best:
        values = [_value(t["values"][name]) for name in names]
        rows.append([str(t["number"]), f"{t['mrr']:.4f} ± {t['error']:.4f}", *values])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(c.rjust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    pruned = sum(t["state"] == "pruned" for t in found.trials)
    return "\n".join([*lines, f"{len(whole)} trials at every origin, {pruned} pruned before"])


def _value(value: Value) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
