"""What each cross feature adds to a score, compared with the typical candidate of training.

    cross_score(x) = typical + sum of parts + together

A part is what the cross score would lose if this one feature were that of the typical candidate.
Where g is linear that is exactly its weight times its distance from the mean, and ``together`` is
0. Hidden units read several features at once: ``together`` is what only they do in combination.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from interactrank.model.cross_part import cross_scores_of
from interactrank.model.interactrank import InteractRank
from interactrank.model.query_side import QuerySide


@dataclass(frozen=True)
class Contributions:
    """The parts of one cross score.

    ``names`` of the features; ``parts`` float32 [names]. ``typical`` is the cross score of the
    typical candidate under this request, ``additive`` whether g has no hidden units.
    """

    names: tuple[str, ...]
    parts: NDArray[np.float32]
    typical: float
    together: float
    additive: bool


def contributions(model: InteractRank, side: QuerySide, x: NDArray[np.float32]) -> Contributions:
    """The parts of the cross score of one candidate.

    Args:
        model: that scored it.
        side: of its request, whose weights of x depend on the request.
        x: float32 [X], its cross features.
    """
    fusion = model.fusion
    if not fusion.crosses:
        return Contributions((), np.zeros(0, np.float32), 0.0, 0.0, True)
    groups = _groups(model)
    mean = fusion.x_mean.numpy().astype(np.float32)
    typical = mean.copy()
    # A typical candidate has the feature: its value is the median, and it is not absent.
    typical[fusion.first_optional + 1 :: 2] = 0.0
    rows = np.repeat(x[None], len(groups) + 2, axis=0)
    for row, columns in enumerate(groups.values()):
        rows[row, columns] = typical[columns]
    rows[-2] = typical
    scores = cross_scores_of(model, side, rows).astype(np.float64)
    parts = scores[-1] - scores[:-2]
    together = scores[-1] - scores[-2] - parts.sum()
    additive = fusion.units is None
    return Contributions(
        tuple(groups),
        parts.astype(np.float32),
        float(scores[-2]),
        0.0 if additive else float(together),
        additive,
    )


def _groups(model: InteractRank) -> dict[str, list[int]]:
    """Columns of x by feature: of a candidate feature, its value and whether it is absent."""
    names, first = model.schema.cross, model.fusion.first_optional
    found = {name: [column] for column, name in enumerate(names[:first])}
    for column in range(first, len(names), 2):
        found[names[column]] = [column, column + 1]
    return found
