"""A job of several seeds: means with their spread, and the best on validation is registered."""

from __future__ import annotations

import re
from pathlib import Path
from statistics import fmean

import pytest
from tests.behaviour.test_evaluate import linked

from interactrank.model.config import ModelConfig
from interactrank.training.trainer import TrainConfig
from prerank import pipeline
from prerank.config import JobConfig
from prerank.core.home import Home
from prerank.core.manifest import LogManifest
from prerank.core.times import iso
from prerank.evaluation.baselines import suite
from prerank.evaluation.metrics_file import from_json
from prerank.evaluation.report.numbers import share
from prerank.evaluation.results import LEAD, METRICS
from prerank.promotion.card import FILE
from prerank.registry import versions as registry
from prerank.registry.bundle import read_meta
from prerank.registry.embedding import EMBEDDING_CUTOFF, last_snapshot_us
from prerank.registry.gates import read_gate

SMALL = ModelConfig(width=8, text_width=8, id_width=8, mask_blocks=1, mask_width=16, hidden=(16,))
CONFIG = JobConfig(
    model=SMALL, train=TrainConfig(epochs=1, batch_requests=64, seed=4), baselines=("linear",)
)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*Any type hint:UserWarning")
def test_a_job_of_two_seeds_shows_their_means_and_registers_the_better(
    tiny_world: Home, ray_local: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    home = linked(tiny_world, tmp_path / "home")
    results, version = pipeline.train_and_evaluate(
        home, CONFIG, pipeline.Stages(3), "train", seeds=2
    )
    schema = LogManifest.load(home).schema
    test_from = home.read_json(home.training_set / "manifest.json", "")["splits"]["test_from"]
    tags = MlflowClient().get_model_version(registry.MODEL_NAME, version.number).tags
    assert tags[EMBEDDING_CUTOFF] == str(last_snapshot_us(home, schema, test_from))
    assert 0 < int(tags[EMBEDDING_CUTOFF]) < test_from
    best, other = results.trainings
    assert {best, other} == {4, 5}
    assert results.trainings[best] >= results.trainings[other]
    bundle = registry.download(home, version)
    assert read_meta(bundle)[1]["seed"] == best

    assert results.seeds.keys() == {"linear", LEAD}, "nothing else is trained"
    own = results.seeds[LEAD]["mrr"]
    assert own[0] != own[1]
    assert results.models[LEAD].mean("mrr") == pytest.approx(fmean(own))
    said = pipeline.tables(home, results)
    assert f"The version is that of seed {best}" in said
    client = MlflowClient()
    logged = client.get_run(version.run_id).data.metrics
    assert logged[f"{LEAD}.mrr"] == pytest.approx(fmean(own))
    assert logged[f"{LEAD}.mrr_sd_of_seeds"] == pytest.approx(abs(own[0] - own[1]) / 2**0.5)
    assert "validation_mrr" in logged
    assert "seed-5.validation_mrr" in logged
    # By it the playground finds the version that a baseline stands beside.
    assert suite.run_of(home, "linear") == version.run_id

    logged_inputs = client.get_run(version.run_id).inputs
    assert logged_inputs is not None
    inputs = {
        next(tag.value for tag in own.tags if tag.key == "mlflow.data.context"): own
        for own in logged_inputs.dataset_inputs
    }
    manifest = LogManifest.load(home)
    assert inputs.keys() == {"training", "validation", "testing"}
    assert {i.dataset.name for i in inputs.values()} == {manifest.dataset}
    until = {tag.key: tag.value for tag in inputs["validation"].tags}["requests_before"]
    assert until == iso(test_from)

    gate = read_gate(version)
    assert (gate.result, "prerank materialise" in gate.reason) == ("failed", True)
    described = client.get_model_version(registry.MODEL_NAME, version.number).description
    assert "Gate when it was registered: failed" in str(described)
    card = Path(client.download_artifacts(version.run_id, FILE)).read_text()
    headings = re.findall("^## (.+)$", card, re.MULTILINE)
    assert headings == [
        "Data",
        "Metrics on test",
        "Kinds of requests",
        "Calibration",
        "Costs",
        "Features and their weights",
        "Gate",
        "Limits",
        "Rolling back",
    ]
    assert f"| **{LEAD}** | {share(results.models[LEAD].mean('recall@cut'))} (" in card
    assert f"- weights, SHA-256: {read_meta(bundle)[1]['weights_sha256']}" in card
    learned = iso(read_meta(bundle)[1]["splits"]["validation_from"])
    assert f"- trained on requests before: {learned}" in card
    assert all(f"| `{name}` |" in card for name in schema.cross)
    assert "| tail query |" in card
    assert f"The version is that of seed {best}" in card
    assert f"| {schema.heads[0]} | " in card

    # The same trainings are measured again, those of the other seed too.
    again = pipeline.evaluate_version(home, version)
    for metric in METRICS:
        assert again.seeds[LEAD][metric] == pytest.approx(results.seeds[LEAD][metric], nan_ok=True)
    read = from_json((home.root / "metrics.json").read_text())
    assert read.seeds[LEAD]["mrr"] == pytest.approx(own)
    assert list(read.trainings) == [best, other]

    # The next job begins without them.
    suite.remove_seeds(home)
    assert [p.name for p in (home.root / "baselines").glob("[!.]*")] == ["linear"]
