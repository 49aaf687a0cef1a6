"""tests/simulated_searchers.py: the true chance of fulfilment is what searchers then do."""

from __future__ import annotations

import numpy as np
from tests.simulated_searchers import Searchers

from prerank.simulate import PRESETS


def test_so_many_searches_are_fulfilled_as_truth_says() -> None:
    searchers, chances, fulfilled, found = Searchers(PRESETS["tiny"], 3), [], set(), 0
    for moment in searchers.moments(10, 4_000, (0.0, 24.0)):
        assert len({search.user for search in moment.searches}) == len(moment.searches)
        pages = moment.found[:, :12]
        chances += searchers.fulfilment(moment, pages).tolist()
        fulfilled |= {event["request_id"] for event in searchers.acts(moment, pages)}
        found += len(moment.searches)
    assert found == 4_000
    error = np.sqrt(np.mean(np.array(chances) * (1 - np.array(chances))) / found)
    assert abs(len(fulfilled) / found - np.mean(chances)) < 4 * error
