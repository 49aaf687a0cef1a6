"""On which requests should the weights of the cross features be fitted, and what is g to be? A
rolling origin.

    python benchmarks/rolling_origin.py --home HOME [--home HOME2] [--only WAY ...] [--out TABLE.md]

HOME is an absolute path that `prerank run` has filled. Training and validation requests are cut
into eight blocks of time. For each origin k the fusion, without any dot, is fitted on block k and
on earlier requests in different ways, and measured on the blocks k + 1 and k + 2, as a job's is
fitted on validation and measured on test. Measured on the stored candidates, each counted 1 / Q
times (``prerank.evaluation.baselines.samples``). The test split takes no part.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from printed import markdown, show

from interactrank.features.batch import Batch
from interactrank.features.schema import REQUEST_NUMERIC
from interactrank.model.config import ModelConfig
from interactrank.model.fusion import NEVER_VARIES, Fusion
from interactrank.training.losses import LossConfig
from interactrank.training.stacking import HeldOut, auxiliary_requests, refit
from prerank.core.home import Home
from prerank.dataset.examples import to_arrays
from prerank.evaluation.baselines.samples import expected_mrr, owners
from prerank.evaluation.origins import BLOCKS, ORIGINS, blocks
from prerank.training.reader import AUXILIARY_BATCHES, Reader

SIZE, MEASURED, SEED = 256, 6_000, 0


@dataclass(frozen=True)
class Way:
    """Requests of the fit: block k itself (``held``), the latest before it, random ones before, or
    half of either; whether g is conditioned on the request and has hidden units; a cross feature
    that is left out; and the power of the listwise loss's log Q correction.
    """

    held: bool = False
    latest: bool = False
    random: bool = False
    gated: bool = True
    hidden: int = ModelConfig.fusion_hidden
    without: str = ""
    log_q_power: float = LossConfig.log_q_power

    def __str__(self) -> str:
        """What is fitted on, in words."""
        on = " + ".join(name for name in ("held", "latest", "random") if getattr(self, name))
        form = "" if self.hidden else ", linear"
        form += "" if self.gated else ", fixed weights"
        form += f", no {self.without}" if self.without else ""
        power = self.log_q_power
        return on + form + ("" if power == LossConfig.log_q_power else f", log Q {power:g}")


WAYS = [
    Way(held, latest, random, gated, hidden)
    for gated, hidden in ((True, ModelConfig.fusion_hidden), (True, 0), (False, 0))
    for held, latest, random in (
        (True, False, False),
        (False, False, True),
        (True, True, False),
        (True, False, True),
        (True, True, True),
    )
]
WAYS += [
    Way(held=True, latest=True, random=True, without="user:same_query"),
    *(
        Way(held=True, latest=True, random=True, log_q_power=power)
        for power in (0.5, 0.75, 1.0)
        if power != LossConfig.log_q_power
    ),
]


class Log:
    """All stored requests of training and validation, in time order."""

    def __init__(self, home: Home) -> None:
        self.reader = Reader(home)
        self.table = pa.concat_tables(
            [*self.reader.tables("train"), *self.reader.tables("validation")]
        )
        self.rng = np.random.default_rng(0)

    def block(self, first: int, last: int) -> NDArray[np.int64]:
        """Positions of the requests of blocks ``first`` to ``last``."""
        return blocks(len(self.table), first, last)

    def drawn(self, rows: NDArray[np.int64], limit: int) -> NDArray[np.int64]:
        """At most ``limit`` of ``rows``, in time order."""
        few = len(rows) <= limit
        return rows if few else np.sort(self.rng.choice(rows, limit, replace=False))

    def batches(self, rows: NDArray[np.int64]) -> list[Batch]:
        """Batches of the requests at ``rows``."""
        parts = [rows[start : start + SIZE] for start in range(0, len(rows), SIZE)]
        return [self.reader.batch(self.table.take(pa.array(part))) for part in parts]

    def mrr(self, fusion: Fusion, rows: NDArray[np.int64]) -> float:
        """MRR of the fusion without a dot among the whole catalogue, as the sample tells it."""
        arrays = to_arrays(
            self.table.take(pa.array(rows)), len(self.reader.schema.cross), len(REQUEST_NUMERIC)
        )
        of = torch.from_numpy(owners(arrays))
        with torch.no_grad():
            coefficients = fusion.coefficients(torch.from_numpy(arrays.request))
            scores = fusion.cross_score(torch.from_numpy(arrays.x), coefficients, of)
        return expected_mrr(scores.numpy(), arrays)


def origin(log: Log, k: int, ways: list[Way]) -> dict[Way, float]:
    """MRR of each of ``ways`` at one origin."""
    earlier, limit = log.block(0, k - 1), AUXILIARY_BATCHES * SIZE
    sources: dict[str, list[HeldOut]] = {
        "held": auxiliary_requests(log.batches(log.block(k, k)), "cpu"),
        "latest": auxiliary_requests(log.batches(earlier[-limit:]), "cpu"),
        "random": auxiliary_requests(log.batches(log.drawn(earlier, limit)), "cpu"),
    }
    measured = log.drawn(log.block(k + 1, k + 2), MEASURED)
    x, statistics = (
        torch.cat([getattr(h, n) for h in sources["random"]]) for n in ("x", "statistics")
    )
    found = {}
    for way in ways:
        torch.manual_seed(SEED)
        schema = log.reader.schema
        sizes = x.shape[1], statistics.shape[1], len(schema.heads)
        fusion = Fusion(*sizes, way.gated, way.hidden, len(schema.candidate_features))
        fusion.fit(x, statistics)
        if way.without:
            # As if it had never varied: it has no say.
            fusion.x_std[schema.cross.index(way.without)] = NEVER_VARIES
        half = 2 if way.latest and way.random else 1
        chosen = {n: own[:: half if n != "held" else 1] for n, own in sources.items()}
        used = [h for n, own in chosen.items() if getattr(way, n) for h in own]
        refit(fusion, used, LossConfig(log_q_power=way.log_q_power))
        found[way] = log.mrr(fusion, measured)
    return found


def main() -> None:
    """Print a table for each home: ways × origins."""
    ask = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    ask.add_argument("--home", action="append", required=True)
    ask.add_argument(
        "--only",
        nargs="+",
        choices=[str(w) for w in WAYS],
        metavar="WAY",
        default=[str(w) for w in WAYS],
        help="rows of the table, by name",
    )
    ask.add_argument("--out", type=Path, help="Markdown file to write")
    args = ask.parse_args()
    torch.set_num_threads(1)
    tables = []
    for folder in args.home:
        home = Home.at(Path(folder).resolve())
        log, rows = Log(home), defaultdict(list)
        for k in ORIGINS:
            for way, mrr in origin(log, k, [w for w in WAYS if str(w) in args.only]).items():
                rows[way].append(mrr)
                print(home.root.name, k, f"{way!s:<32}", f"{mrr:.4f}", flush=True)
        blocks = [f"block {k + 1} of {BLOCKS}" for k in ORIGINS]
        lines = [
            [str(way), *(f"{v:.4f}" for v in [*mrrs, np.mean(mrrs)])] for way, mrrs in rows.items()
        ]
        tables.append(markdown([f"{home.root.name}: fitted on", *blocks, "mean"], lines))
    text = "MRR of the cross features alone\n\n" + "\n\n".join(tables) + "\n"
    show(text, args.out)


if __name__ == "__main__":
    main()
