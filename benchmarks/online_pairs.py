"""What every variant would have shown in the same search, by the true chance that it is fulfilled.

Users who were dealt to two variants differ by more than their rankers do. A simulator may ask all
variants in the same search, for the same user and candidates and with the same counts: only the
rankers differ then. No live test can.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import permutations

import numpy as np
from numpy.typing import NDArray
from online_lifts import ORACLE
from tests.installation import Installation
from tests.simulated_searchers import Moment, Searchers
from tests.simulated_traffic import PAGE, Answered, body_of, padded, places_of

from prerank.online_tests.statistics import Rate, rate
from prerank.registry import versions as registry
from prerank.serving.answer import Loaded, answer
from prerank.serving.api import parse_json
from prerank.serving.config import ServeConfig, limits_of
from prerank.serving.loading import load

SENT = "bm25"
"""The variant that leaves candidates as they are sent."""


class Pairs:
    """True chances of what every variant would have shown, of each search of an experiment.

    Args:
        live: whose versions and features are read, as its replicas read them.
        searchers: who search.
    """

    def __init__(self, live: Installation, searchers: Searchers) -> None:
        self._home, self._searchers = live.home, searchers
        self._config = ServeConfig(**live.config["applications"][0]["args"])
        self._loaded: dict[str, Loaded] = {}
        self._chances: dict[str, NDArray[np.float64]] = {}
        self._users = len(searchers.world.users.country)

    def load(self, versions: Mapping[str, str]) -> None:
        """Load the version of each variant that scores, instead of those of before."""
        for loaded in self._loaded.values():
            loaded.features.close()
        limits, golden_ms = limits_of(self._home, self._config), self._config.golden_ms
        self._loaded = {
            variant: load(
                self._home, registry.Wanted("", registry.version_of(number)), limits, golden_ms
            )
            for variant, number in versions.items()
        }

    def see(self, moment: Moment, answers: list[Answered]) -> None:
        """Rank the searches of a moment by every variant, before their pages change anything.

        A page of the variant that the user was dealt to is the one that was answered, to the item.
        """
        pages = {ORACLE: self._by_truth(moment, answers)}
        for variant in (SENT, *self._loaded):
            own = [self._page(variant, each) for each in answers]
            for each, page in zip(answers, own, strict=True):
                shown = each.sent[each.order[:PAGE]]
                assert each.body["variant"] != variant or np.array_equal(page, shown), each.body
            pages[variant] = padded(own, PAGE)
        for variant, shown in pages.items():
            chances = self._chances.setdefault(variant, np.zeros(self._users))
            np.add.at(chances, moment.batch.user, self._searchers.fulfilment(moment, shown))

    def ratios(self) -> dict[str, dict[str, Rate]]:
        """Variant -> control -> the ratio of their chances, with its error by users."""
        found: dict[str, dict[str, Rate]] = {variant: {} for variant in self._chances}
        for of, control in permutations(self._chances, 2):
            found[of][control] = rate(self._chances[of], self._chances[control])
        return found

    def _by_truth(self, moment: Moment, answers: list[Answered]) -> NDArray[np.int64]:
        """Pages of rows int64 [N, PAGE], the most relevant first."""
        sent = padded([each.sent for each in answers], moment.found.shape[1])
        truth = np.where(sent >= 0, self._searchers.relevance(moment, sent), -np.inf)
        best = np.argsort(-truth, axis=1, kind="stable")[:, :PAGE]
        return np.take_along_axis(sent, best, axis=1)

    def _page(self, variant: str, answered: Answered) -> NDArray[np.int64]:
        """Rows of items int64 [<= PAGE]."""
        sent = answered.sent
        if variant == SENT:
            return sent[:PAGE]
        loaded, ids = self._loaded[variant], self._searchers.ids[sent].tolist()
        body = json.dumps(body_of(answered.search, ids)).encode()
        request = parse_json(body, loaded.limits, answered.search.time_us)
        return sent[places_of(answer(request, loaded).ids[:PAGE].tolist(), ids)]
