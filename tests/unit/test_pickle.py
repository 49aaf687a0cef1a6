"""Nothing is read back in a form that can hold code."""

from __future__ import annotations

from pathlib import Path

from tests.unit.test_imports import imported

ROOT = Path(__file__).parents[2]
# Tasks and their results, between processes of one cluster.
TASKS = ROOT / "platform" / "prerank" / "core" / "ray_tasks.py"
FORMS = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
CALLS = ("read_pickle(", "allow_pickle=True", "weights_only=False", "cloudpickle")


def test_nothing_is_unpickled_but_tasks_of_ray() -> None:
    sources = [
        path
        for folder in (ROOT / "platform", ROOT / "interactrank", ROOT / "feature_repo")
        for path in folder.rglob("*.py")
        if path != TASKS
    ]
    assert len(sources) > 100
    for path in sources:
        text = path.read_text()
        assert not imported(path) & FORMS, path
        assert not [call for call in CALLS if call in text], path
        assert text.count("torch.load(") == text.count("weights_only=True"), path
