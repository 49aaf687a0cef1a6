"""What `prerank parity` found, and whether it was worth finding."""

from __future__ import annotations

from dataclasses import dataclass, field

from prerank.core.errors import PrerankError, StateError

MIN_FILLED = 0.9
"""Share of the compared requests that must have a cross or history feature other than 0."""
MAX_SHOWN = 20


@dataclass
class Parity:
    """What a comparison found.

    Attributes:
        compared, equal, filled: requests; ``filled`` had a cross or history feature other than 0.
        worst: name -> largest difference, as a multiple of its tolerance and as it is.
        example: the first request that differed, in words.
    """

    compared: int = 0
    equal: int = 0
    filled: int = 0
    worst: dict[str, tuple[float, float]] = field(default_factory=dict)
    example: str = ""

    def note(self, differences: dict[str, tuple[float, float]], filled: bool, asked: str) -> None:
        """Count a request with its largest ``difference`` and tolerance by name."""
        self.compared += 1
        self.filled += filled
        over = {n: d for n, (d, tolerance) in differences.items() if not d <= tolerance}
        self.equal += not over
        if over and not self.example:
            name = max(over, key=lambda n: over[n])
            self.example = f"{asked}: {name} differs by {over[name]:.3g}"
        for name, (difference, tolerance) in differences.items():
            ratio = difference / tolerance
            if not ratio <= self.worst.get(name, (-1.0, 0.0))[0]:
                self.worst[name] = ratio, difference

    def table(self) -> str:
        """The result for a terminal: totals, then the differences, largest first."""
        share = self.filled / max(self.compared, 1)
        exact = sum(d == 0 for _, d in self.worst.values())
        lines = [
            f"requests compared                {self.compared:>8}",
            f"equal within tolerance           {self.equal:>8}",
            f"with cross or history features   {share:>8.0%}",
            f"values that never differed       {exact:>8} of {len(self.worst)}",
        ]
        ranked = sorted(self.worst.items(), key=lambda item: -item[1][0])
        shown = [(name, *found) for name, found in ranked if found[1] != 0][:MAX_SHOWN]
        if shown:
            lines.append(f"{'largest difference':<33}{'':>8}  of its tolerance")
        lines += [f"  {n:<30} {d:>8.1e}  {r:.0%}" for n, r, d in shown]
        return "\n".join(lines)

    def check(self) -> None:
        """Raise unless everything agreed and the comparison was worth something.

        Raises:
            PrerankError: requests differ; the first one is named.
            StateError: nothing, or nearly nothing but empty features, was compared.
        """
        if self.equal < self.compared:
            raise PrerankError(
                f"{self.compared - self.equal} of {self.compared} requests differ, the first: "
                f"{self.example}. Were features rebuilt without `prerank materialise`? An online "
                "store that lost its data is filled anew when feast/materialised-*.json is removed "
                "before that."
            )
        if self.filled < MIN_FILLED * max(self.compared, 1):
            raise StateError(
                f"only {self.filled} of {self.compared} requests had a cross or history feature "
                "other than 0: there was too little to compare. Run `prerank materialise`."
            )
