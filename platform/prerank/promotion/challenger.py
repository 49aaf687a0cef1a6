"""From a trained bundle to the challenger: registered, indexed, put to the gate, described."""

from __future__ import annotations

from pathlib import Path

from prerank.core.home import Home
from prerank.core.manifest import LogManifest
from prerank.evaluation.golden import golden_requests
from prerank.evaluation.results import LEAD, Results
from prerank.promotion.card import write_card
from prerank.promotion.config import GateConfig
from prerank.promotion.gate import put_to_gate
from prerank.promotion.verdict import Verdict
from prerank.registry import tracking
from prerank.registry import versions as registry
from prerank.registry.bundle import DIGEST, Version, load_bundle
from prerank.registry.embedding import EMBEDDING_CUTOFF, last_snapshot_us
from prerank.registry.golden import save_golden
from prerank.registry.index import build_index
from prerank.registry.registration import name_index, register


def publish(
    home: Home, bundle: Path, run_id: str, results: Results, gate: GateConfig
) -> tuple[Version, Verdict]:
    """Register a bundle as the challenger, with its index, its gate's result and its card.

    Args:
        home: with the log, the features and the training set.
        bundle: folder of what was trained.
        run_id: the MLflow run that trained it.
        results: of its evaluation.
        gate: what it must pass. A version that does not is registered all the same.

    Raises:
        NotReadyError: MLflow is away.
    """
    loaded = load_bundle(bundle)
    save_golden(bundle, golden_requests(home, loaded))
    manifest = LogManifest.load(home)
    # The version's own, where the report has means over seeds.
    own = {m: v[0] for m, v in results.seeds.get(LEAD, {}).items()} or results.models[LEAD].means
    metrics = {tracking.metric_name(k): v for k, v in own.items()}
    tags = {
        "dataset": manifest.dataset,
        DIGEST: loaded.digest,
        registry.TRAINED_UNTIL: str(loaded.meta["splits"]["test_from"]),
    }
    if cutoff_us := last_snapshot_us(home, loaded.schema, loaded.meta["splits"]["test_from"]):
        tags[EMBEDDING_CUTOFF] = str(cutoff_us)
    if manifest.restated:
        tags["history"] = f"restated: {manifest.restated}"
    version = register(bundle, run_id, metrics, tags)
    name_index(version, build_index(home, bundle, version, manifest.last_us))
    verdict = put_to_gate(home, version, gate)
    write_card(version, loaded.meta, results, verdict)
    return version, verdict
