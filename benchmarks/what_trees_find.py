"""What do trees over the same columns find that g(x) cannot, and what would it cost to have it?

    python benchmarks/what_trees_find.py --results FOLDER --home HOME [--home HOME2]
    python benchmarks/what_trees_find.py --results FOLDER --picture FRONTIER.svg

HOME is an absolute path that `prerank run` has filled; nothing is written there. The trees are
fitted as the baseline of reports is, on the newest training requests, and stopped on the earlier
half of the validation requests; all is measured on the later half. A log with impressions has few
of these and stores all candidates, so its training and validation requests are cut into blocks of
time instead, as in ``rolling_origin``: at each origin all is fitted on what came before, stopped on
a block, and measured on the next. Which columns and pairs of columns they use is read from their
splits (``tree_pairs``), and from trees that may use less: no pairs at all, or pairs of a column
with the request's statistics alone. Then g is fitted in several forms (``forms_of_g``), without
towers, on the same requests. All are compared with the default form request by request. The test
split takes no part. FOLDER gets a JSON file
and a table for each home; ``--picture`` draws all of FOLDER's.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from cost_frontier import TREES, frontier
from forms_of_g import DEFAULT, FORMS, G
from numpy.typing import NDArray
from printed import markdown
from rolling_origin import Log as StoredLog
from tree_pairs import Pair, gains, strongest

from interactrank.features.batch import Batch, RequestArrays
from interactrank.features.schema import REQUEST_NUMERIC, FeatureSchema
from interactrank.metrics.ranking import mean, paired_test, request_metrics
from interactrank.training.losses import LossConfig
from interactrank.training.stacking import auxiliary_requests
from prerank.core.home import Home
from prerank.core.manifest import LogManifest
from prerank.evaluation.baselines import trees
from prerank.evaluation.baselines.ranker import Ranker
from prerank.evaluation.baselines.samples import shuffled
from prerank.evaluation.budget import Budget
from prerank.evaluation.origins import ORIGINS
from prerank.evaluation.trials import TrialReader, measured
from prerank.training.reader import Reader

SHOWN, BATCH, SEED = 12, 256, 0
TIMED, REPEATS = 10_000, 15
COMPARED = ("mrr", "recall@cut")
Values = dict[str, dict[str, NDArray[np.float64]]]


@dataclass(frozen=True)
class Less:
    """Trees that may use less: which columns stay, and which may stand on one path."""

    name: str
    columns: NDArray[np.bool_]
    paths: list[list[int]] | None = None


class Fit:
    """The requests of one fit: the trees and g learn from ``own["train"]``, and those that come
    next, ``own["validation"]``, stop the trees and join the fit of g. ``later`` are stored requests
    to be measured on; None measures the later half of validation with the whole catalogue.
    """

    def __init__(
        self, reader: Reader, own: dict[str, list[pa.Table]], later: pa.Table | None
    ) -> None:
        self.reader, self.own, self.later = reader, own, later
        self.schema = reader.schema
        self.names = trees.feature_names(self.schema)

    def read(
        self, home: Home, schema: FeatureSchema, split: str, limit: int, seed: int
    ) -> RequestArrays:
        """All of a part's requests (``samples.Read``)."""
        return shuffled(self.own[split], schema, seed)

    def batches(self) -> Iterator[Batch]:
        """All requests that g is fitted on."""
        for table in itertools.chain(*self.own.values()):
            for start in range(0, len(table), BATCH):
                yield self.reader.batch(table.slice(start, BATCH))

    def measured(self, rankers: Sequence[Ranker], budget: Budget) -> Values:
        """Ranker -> metric -> its value for each measured request."""
        if self.later is None:
            assert isinstance(self.reader, TrialReader)
            return measured(self.reader.home, rankers, self.reader, budget)
        arrays = shuffled([self.later], self.schema, SEED)
        positive = arrays.labels & 1 > 0
        return {
            r.name: request_metrics(r.score(arrays, []), positive, arrays.offsets) for r in rankers
        }

    def rows(self, arrays: RequestArrays) -> NDArray[np.float32]:
        """The trees' features of ``arrays``."""
        of = self.reader.table.rows(arrays.candidates)
        return trees.features(arrays, self.reader.catalogue, of)

    def fewer(self) -> list[Less]:
        """What is left out of the trees."""
        x, statistics = len(self.schema.cross), len(REQUEST_NUMERIC)
        at = np.arange(len(self.names))
        of_request = [int(i) for i in at[x : x + statistics]]
        own = [i for i in range(len(at)) if i not in of_request]
        return [
            Less("trees, a column at a time", at >= 0, [[int(i)] for i in at]),
            Less("trees, a column with statistics", at >= 0, [[i, *of_request] for i in own]),
            Less("trees without statistics", (at < x) | (at >= x + statistics)),
        ]


def tree_rankers(fit: Fit, folder: Path) -> list[trees.TreesRanker]:
    """The baseline's trees, and those that may use less under the same weight of negatives."""
    trials = trees.fit(fit.reader.home, fit.schema, folder, SEED, fit.read)
    best = max(trials, key=lambda t: t["validation_mrr"])
    found = [trees.TreesRanker(TREES, folder)]
    splits = [fit.read(fit.reader.home, fit.schema, name, 0, SEED) for name in fit.own]
    sets = [(arrays, fit.rows(arrays)) for arrays in splits]
    for less in fit.fewer():
        masked = [(arrays, np.where(less.columns, rows, np.float32(0))) for arrays, rows in sets]
        constraints = {"interaction_constraints": less.paths} if less.paths else {}
        booster, _ = trees.boosted(best["log_q_power"], masked, fit.names, SEED, **constraints)
        trees.save(folder, fit.schema, fit.reader.catalogue, booster)
        found.append(trees.TreesRanker(less.name, folder))
    return found


def pairs_of(fit: Fit, booster: Any) -> list[Pair]:
    """The trees' pairs, strongest first; half of the rows they are read on were engaged."""
    arrays = fit.read(fit.reader.home, fit.schema, "train", 0, SEED)
    engaged, rng = arrays.labels & 1 > 0, np.random.default_rng(SEED)
    some = [rng.choice(np.flatnonzero(of), min(2_000, of.sum())) for of in (engaged, ~engaged)]
    return strongest(booster, fit.rows(arrays)[np.concatenate(some)], SEED)


def fits(home: Home, budget: Budget, origins: Sequence[int]) -> Iterator[Fit]:
    """One fit, or where the log has impressions one for each origin.

    Candidates that were shown are stored, so that a log with few validation requests can be
    measured on training requests too, each with what came before it.
    """
    if not LogManifest.load(home).has_impressions:
        reader = TrialReader(home, budget, ())
        yield Fit(reader, reader.own, None)
        return
    log = StoredLog(home)
    for k in origins:
        before, after, later = (log.block(*b) for b in ((0, k - 1), (k, k), (k + 1, k + 1)))
        own = {"train": before[-budget.train_requests :], "validation": after}
        tables = {name: [log.table.take(pa.array(rows))] for name, rows in own.items()}
        yield Fit(log.reader, tables, log.table.take(pa.array(later)))


def nanoseconds(ranker: Ranker, arrays: RequestArrays) -> float:
    """Processor time per candidate of one request with TIMED candidates; least of a few repeats."""
    at = np.resize(np.arange(len(arrays.candidates)), TIMED)
    one = replace(
        arrays,
        request=arrays.request[:1],
        time=arrays.time[:1],
        offsets=np.array([0, TIMED]),
        candidates=arrays.candidates[at],
        x=arrays.x[at],
    )
    taken = []
    for _ in range(REPEATS):
        began = time.process_time_ns()
        ranker.score(one, [""])
        taken.append(time.process_time_ns() - began)
    return min(taken) / TIMED


def fitted(fit: Fit) -> tuple[list[Any], list[Pair]]:
    """All rankers, the baseline's trees first, and the pairs of these."""
    with TemporaryDirectory() as folder:
        rankers: list[Any] = [*tree_rankers(fit, Path(folder))]
    pairs, crosses = pairs_of(fit, rankers[0].booster), len(fit.schema.cross)
    of_x = [p.columns for p in pairs if max(p.columns) < crosses]
    data = auxiliary_requests(fit.batches(), "cpu")
    forms = [form for form in FORMS if form.suits(fit.schema)]
    return [*rankers, *(G(form, data, fit.schema, of_x, LossConfig()) for form in forms)], pairs


def measure(home: Home, budget: Budget, origins: Sequence[int]) -> dict[str, Any]:
    """All that is found of one home, as JSON has it; what stands once is of the last fit."""
    parts: list[Values] = []
    for fit in fits(home, budget, origins):
        rankers, pairs = fitted(fit)
        parts.append(fit.measured(rankers, budget))
        print(home.root.name, {n: mean(v["mrr"]) for n, v in parts[-1].items()}, flush=True)
    timed = fit.read(home, fit.schema, "validation", 0, SEED)
    rows = []
    for ranker in rankers:
        row = {"name": ranker.name, "flops": ranker.flops, "ns": nanoseconds(ranker, timed)}
        for metric in COMPARED:
            own, default = (
                np.concatenate([part[name][metric] for part in parts])
                for name in (ranker.name, DEFAULT.name)
            )
            test = paired_test(own, default)
            row[metric] = [mean(own), test.mean_difference, *test.ci]
        rows.append(row)
    return {
        "home": home.root.name,
        "fits": len(parts),
        "requests": {name: sum(map(len, tables)) for name, tables in fit.own.items()},
        "measured": sum(len(part[DEFAULT.name]["mrr"]) for part in parts),
        "columns": {fit.names[c]: s for c, s in [*gains(rankers[0].booster)[0].items()][:SHOWN]},
        "pairs": [
            {**asdict(p), "columns": [fit.names[c] for c in p.columns]} for p in pairs[:SHOWN]
        ],
        "rows": rows,
    }


def text_of(found: dict[str, Any]) -> str:
    """Tables of one home: the forms, the columns, the pairs."""
    requests = found["requests"]

    def cells(mean_: float, difference: float, low: float, high: float) -> list[str]:
        return [f"{mean_:.4f}", f"{difference:+.4f} ({low:+.4f} to {high:+.4f})"]

    head = [found["home"], "FLOPs of g", "ns"]
    head += [name for metric in COMPARED for name in (metric, f"{metric} − {DEFAULT.name}")]
    lines = [
        [
            r["name"],
            f"{r['flops']:.0f}",
            f"{r['ns']:.0f}",
            *(c for m in COMPARED for c in cells(*r[m])),
        ]
        for r in found["rows"]
    ]
    about = (
        f"{found['home']}: {found['fits']} fits, the last on {requests['train']:,} + "
        f"{requests['validation']:,} requests; {found['measured']:,} measured"
    )
    columns = [[name, f"{100 * share:.1f}"] for name, share in found["columns"].items()]
    pairs = [
        [" × ".join(p["columns"]), f"{100 * p['gain']:.1f}", f"{p['strength']:.3f}"]
        for p in found["pairs"]
    ]
    return "\n\n".join(
        (
            about,
            markdown(head, lines),
            markdown(["column", "% of gain"], columns),
            markdown(["pair", "% of gain", "strength"], pairs),
        )
    )


def main() -> None:
    """Measure the homes, then draw what is there."""
    ask = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    ask.add_argument("--home", action="append", default=[])
    ask.add_argument("--results", type=Path, required=True, help="folder of JSON and tables")
    ask.add_argument("--picture", type=Path, help="SVG of the frontiers of all results")
    ask.add_argument("--requests", type=int, default=8_000, help="of training, the newest")
    ask.add_argument("--validation", type=int, default=4_000, help="sampled, the earlier half fits")
    ask.add_argument("--candidates", type=int, default=3_000_000, help="measured, about")
    ask.add_argument("--origins", type=int, nargs="+", choices=ORIGINS, default=ORIGINS)
    args = ask.parse_args()
    torch.set_num_threads(1)
    budget = Budget(args.requests, args.validation, args.candidates)
    args.results.mkdir(parents=True, exist_ok=True)
    for folder in args.home:
        found = measure(Home.at(Path(folder).resolve()), budget, args.origins)
        text = text_of(found)
        (args.results / f"{found['home']}.json").write_text(json.dumps(found, indent=1))
        (args.results / f"{found['home']}.md").write_text(text + "\n")
        print(text, flush=True)
    if args.picture:
        results = [json.loads(p.read_text()) for p in sorted(args.results.glob("*.json"))]
        frontier(results).savefig(args.picture, metadata={"Date": None})


if __name__ == "__main__":
    main()
