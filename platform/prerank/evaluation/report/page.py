"""The page of a report: its style, its sections in order and its words."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from prerank.evaluation.report import plots as plots
from prerank.evaluation.report import tables as tables
from prerank.evaluation.report.ablations import ablations
from prerank.evaluation.results import BASELINE, LEAD, Results, ordered

_STYLE = """
:root{color-scheme:light dark;--page:#fff;--ink:#1c2430;--soft:#5b6675;--line:#d8dee6;
--best:#e8f1fd;--s0:#1f6fd6;--s1:#d9730d;--s2:#2b8a5b;--s3:#a23fb5;--s4:#c2354b;--s5:#0f8b9d;--s6:#8a6d1d;
--s7:#6b7280;--s8:#5b4fc4;--s9:#7a9a01;--s10:#d6568f;--s11:#7a4a2b}
@media(prefers-color-scheme:dark){:root{--page:#14181f;--ink:#e4e9f0;--soft:#9aa6b5;--line:#333c49;
--best:#1d3350;--s0:#6aa8f7;--s1:#f0a04b;--s2:#5cc490;--s3:#d18ae0;--s4:#f0798b;--s5:#4fc3d4;
--s6:#d0b052;--s7:#a3acb8;--s8:#9b92f0;--s9:#b5d24a;--s10:#f29abf;--s11:#c79a7a}}
*{box-sizing:border-box}
body{margin:0 auto;padding:2rem 1.25rem 4rem;max-width:66rem;background:var(--page);
color:var(--ink);font:16px/1.55 system-ui,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
h1{font-size:1.6rem;line-height:1.25;margin:0}
h2{font-size:1.15rem;margin:2.6rem 0 .4rem}
p,ul,dl{max-width:46rem;margin:.4rem 0 .8rem}
.lead{font-size:1.15rem;margin:1rem 0}
.note,figcaption{color:var(--soft);font-size:.88rem}
figure{margin:.6rem 0;overflow-x:auto}
svg{width:100%;min-width:38rem;max-width:66rem;height:auto;display:block}
svg text{font-family:inherit!important}
.wide{overflow-x:auto}
table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums;margin:.6rem 0}
th,td{padding:.35rem .7rem;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
th:first-child,td:first-child{text-align:left;padding-left:.3rem}
thead th{color:var(--soft);font-weight:600}
td small{display:block;color:var(--soft);font-size:.75rem;white-space:pre}
td:first-child small{white-space:normal;max-width:24rem}
td.best,td.sure{background:var(--best)}
td.best{font-weight:700}
td.best small{font-weight:400}
tr.aside td{color:var(--soft);font-style:italic}
dt{font-weight:600;margin-top:.6rem}
dd{margin:0}
.facts{display:grid;grid-template-columns:max-content 1fr;gap:.15rem 1.5rem}
.facts dt{margin:0;overflow-wrap:anywhere}
summary{cursor:pointer;color:var(--soft)}
"""


_GLOSSARY = {
    "hits@k": "Share of requests with at least one engaged item among the k best-ranked "
    "candidates.",
    "mrr": "Mean reciprocal rank: 1 / rank of the first engaged item, averaged over requests. "
    "1 means always first, 0.5 means typically second.",
    "ndcg@10": "How near the ten best places are to the ideal order; engaged items count less the "
    "lower they stand.",
    "recall@cut": "Share of engaged items that survive when only the best tenth of the candidates "
    "is kept. This is what pre-ranking is for.",
    "auc": "Chance that an engaged candidate is ranked above one of the same request that was not "
    "engaged with; 0.5 is guessing.",
    "reachable ceiling": "The value that a perfect order of the same candidates would have. It is "
    "below 1 where engaged items are not among the candidates.",
    "agreement": "Share of a costly full ranker's best items that survive the cut to the best "
    "tenth. A tie across its last place is left out.",
    "calibration error": "Mean distance between predicted and observed engagement over groups of "
    "impressions with similar predictions.",
    "SNIPS": "Self-normalised inverse propensity scoring. Its mrr and dcg are means over "
    "engagements of 1 / rank and 1 / log2(1 + rank), so they differ from the mrr above, which "
    "counts a request's first engaged item.",
    "interval": "95% bootstrap interval over requests: where the mean would fall in 95 of 100 "
    "such samples of requests.",
    "p": "How often a difference at least this large would arise if both rankers were equally "
    "good (paired sign-flip test over requests).",
}


_PROTOCOL = (
    "Requests are split by time: the first are for training, later ones for validation, the last "
    "for the test. Settings were chosen on validation only.",
    "Every feature of a request was computed from events before that request; its own events never "
    "count. Counts come from published snapshots, as they would in production.",
    "A request is scored when it has at least one engaged item. An engaged item that is not among "
    "the candidates counts as missed in every metric.",
    "Candidates with equal scores share their places, so no model gains or loses by the order in "
    "which candidates happen to be stored.",
)


_RANKERS = {
    LEAD: "The two towers fused with engagement counts of this query, user and item.",
    BASELINE: "The same towers and training without those counts and without the user's history.",
    "two_tower_sequence": "The two-tower with the user's history in its query tower.",
    "inttower": "Two towers whose layers meet (IntTower): early interaction, at a higher price.",
    "linear": "A linear model over the engagement counts, without towers.",
    "trees": "Gradient-boosted trees over all features: the costly upper reference.",
    "iqp": "Item-query popularity: engagements of the item after this very query so far.",
    "bm25": "How well the words of the query match the item's title.",
    "popularity": "Engagements of the item after any query so far.",
    "oracle_relevance": "Oracle (true relevance): the engagement probability that the simulated "
    "world itself used.",
    "oracle_log": "Oracle (log only): that probability as far as a perfect reader of the log "
    "could know it.",
}

_INTROS = {
    "Metrics": "How well each ranker orders the candidates of a request; higher is better "
    "everywhere.",
    f"{LEAD} against every other ranker": f"What {LEAD} gains on each of the others on the very "
    "same requests.",
    f"Difference from {BASELINE}, request by request": f"What each ranker gains on the {BASELINE}, "
    "the usual model of this stage, on the very same requests.",
    "What the cut keeps": "Pre-ranking passes a set on to a costlier ranker, which orders it anew. "
    "So what counts is which items are still in the set.",
    "Where it helps: slices": "The same metrics on kinds of requests: those with much past "
    "engagement to go by, and those with little.",
    "Quality against cost": "Order quality beside the work of scoring one more candidate; up and "
    "to the left is better.",
    "What each part is worth": "The model trained anew without one of its parts: what is lost is "
    "what the part was worth.",
    "Calibration": "Whether predicted probabilities of engagement are right on average: of the "
    "impressions given 10%, about 10% should be engaged with.",
    "Had it been shown: counterfactual estimate": "Items that stood first were looked at most, so "
    "plain metrics favour the order that was shown. Here every engagement is weighted by how "
    "seldom its place is looked at (SNIPS): an estimate of what each order would have earned.",
    "Learning curves": "Loss and quality after each pass over the training requests.",
    "What the fusion weighs": "The features that move a score most.",
    "Data": "What the log holds and where the candidates come from.",
}

_SLICES = {
    "head query": "Engaged with often before the request.",
    "torso query": "Engaged with some times before.",
    "tail query": "Engaged with seldom or never before.",
    "new user": "No engagement of the user before the request.",
    "new item": "An engaged item had just appeared, or had no engagement yet.",
}

_FEATURES = {
    "q": "The exact query. “q:engage:7d” is the item's share of the engagements that this query "
    "had in the last seven days.",
    "s": "The same within the searcher's segment, such as a country.",
    "fresh": "The same, for items younger than thirty days alone.",
    "c": "The same for the query without spaces.",
    "t": "The same for the query's words.",
    "g": "The same for pieces of four letters, which stand in for misspelt and unseen queries.",
    "a": "The same for all queries together: popularity.",
    "user": "What this user did with this item before.",
    "item": "The item alone.",
    "retriever": "What the stage before said of the item.",
    "sparse": "The feature named after it, counting more the less is known of the query.",
}


def _weights(results: Results) -> str:
    """The weights with the meaning of the families that occur."""
    weights = results.get("fusion_weights", [])
    plot = plots.weights(weights)
    if not plot:
        return ""
    note = (
        "Weights of standardised features: bars to the right raise an item's score. What the "
        "request and the hidden units change is not in them."
    )
    if len(weights) > plots.MAX_WEIGHTS:
        note += f" The {plots.MAX_WEIGHTS} heaviest of {len(weights)}."
    families = {name.split(":", 1)[0] for name, _ in weights if ":" in name}
    return f'{plot}<p class="note">{note}</p>' + _explained(_FEATURES, families)


def _explained(words: dict[str, str], used: Iterable[str]) -> str:
    chosen = set(used)
    return tables.definitions([(k, v) for k, v in words.items() if k in chosen], "facts note")


def page(results: Results, lead: str) -> str:
    """The HTML page; ``lead`` is the result in plain words."""
    name, split = results["dataset"]["name"], results.get("split", "test")
    shown = [*ordered(results["models"]), *results.get("oracles", {})]
    who = _explained({k: _RANKERS[k] for k in shown if k in _RANKERS}, shown)
    slices = plots.slices(results) + tables.slices(results)
    parts = {
        "Metrics": tables.metrics(results) + plots.bars(results) + who,
        f"{LEAD} against every other ranker": tables.versus(results),
        f"Difference from {BASELINE}, request by request": tables.paired(results),
        "What the cut keeps": tables.cut(results),
        "Where it helps: slices": slices + _explained(_SLICES, results.get("slices", {})),
        "Quality against cost": plots.cost(results) + tables.cost(results),
        "What each part is worth": ablations(results),
        "Calibration": tables.absent(results.get("calibration", {}))
        + plots.calibration(results)
        + tables.calibration(results),
        "Had it been shown: counterfactual estimate": tables.absent(
            results.get("counterfactual", {})
        )
        + plots.counterfactual(results)
        + tables.counterfactual(results),
        "Learning curves": plots.curves(results),
        "What the fusion weighs": _weights(results),
        "Data": tables.data(results),
        "How it was measured": tables.bullets(_PROTOCOL),
        "Ingest": tables.bullets(results.get("ingest", [])),
        "Features": tables.bullets(results.get("features", [])),
        "Time per stage": tables.stages(results),
        "Glossary": tables.definitions(_GLOSSARY.items()),
    }
    intros = [f"<p>{escape(_INTROS[t])}</p>" if t in _INTROS else "" for t in parts]
    body = "\n".join(
        f"<h2>{escape(title)}</h2>\n{intro}{html}"
        for (title, html), intro in zip(parts.items(), intros, strict=True)
        if html
    )
    title = escape(f"Pre-ranking on {name}: {split} results")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width,initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{_STYLE}</style></head>\n<body><h1>{title}</h1>\n"
        f'<p class="lead">{escape(lead)}</p>\n{body}\n</body></html>\n'
    )
