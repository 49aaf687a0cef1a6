"""Items that are added to an index: scored as by an index that was built with them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests import online_log
from tests.golden import golden_for
from tests.plain_requests import NOW, Request, as_inputs

from interactrank.features.batch import item_inputs
from interactrank.features.catalogue import Catalogue
from interactrank.features.schema import FeatureSchema
from interactrank.model.config import ModelConfig
from interactrank.model.interactrank import InteractRank
from interactrank.model.scorer import Scored, Scorer
from prerank.core.errors import DamagedError, DataError, NotReadyError, StateError
from prerank.core.home import Home
from prerank.registry import additions
from prerank.registry import index as registry_index
from prerank.registry.additions import AddedItems, add_items
from prerank.registry.bundle import Bundle, Version, load_bundle, save_bundle
from prerank.registry.delta import ITEMS, PATTERN, POINTER, load_delta
from prerank.registry.golden import replay
from prerank.registry.index import build_index, known_at, load_index, scorer_of

LOG = replace(online_log.MANIFEST, segments=(), retriever=(), numeric=("price",))
SCHEMA: FeatureSchema = LOG.schema
THREE = Version("3", "0c7bb1a7e1b24e62")
WORDS = ["red", "blue", "shoe", "bag", "lamp", "wooden"]
VALID_FROM = NOW - 5


def items(ids: Sequence[int], seed: int = 0, **changes: Any) -> Catalogue:
    rng = np.random.default_rng((seed, *np.abs(ids).tolist()))
    n = len(ids)
    values: dict[str, Any] = {
        "ids": np.array(ids, np.int64),
        "titles": [" ".join(rng.choice(WORDS, rng.integers(0, 4))) for _ in range(n)],
        "categories": rng.choice(["", "a", "b"], n).tolist(),
        "numeric": rng.random((n, 1)).astype(np.float32) * 50,
        "created": NOW - rng.integers(1, 10**13, n),
        "text_from": VALID_FROM,
    }
    return Catalogue.build(**(values | changes))


TRAINED = items(range(0, 600, 2))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    torch.manual_seed(3)
    config = ModelConfig(width=32, mask_blocks=2, mask_width=32, hidden=(32,))
    model = InteractRank(config, SCHEMA, TRAINED)
    model.trained[1::2] = True
    folder = tmp_path_factory.mktemp("version")
    save_bundle(folder, model, TRAINED, {})
    return load_bundle(folder)


@pytest.fixture
def home(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """Version 3 with its index."""

    def serially(function: Callable[[Any], Any], tasks: Sequence[Any], name: str) -> list[Any]:
        return [function(task) for task in tasks]

    monkeypatch.setattr(registry_index, "ray_map", serially)
    monkeypatch.setattr(registry_index, "ITEMS_PER_TASK", 170)
    home = Home.at(tmp_path / "home")
    LOG.save(home)
    save_bundle(home.models / THREE.name, bundle.model, TRAINED, {})
    built(home)
    return home


def built(home: Home) -> Scorer:
    """The scorer of an index that is built now."""
    build_index(home, home.models / THREE.name, THREE, NOW)
    return served(home)


def served(home: Home) -> Scorer:
    """As a replica scores: the index, and what was added to it."""
    of = load_bundle(home.models / THREE.name)
    scorer = scorer_of(of, load_index(home, THREE, of.digest))
    delta = load_delta(home.index / THREE.name)
    return scorer if delta is None else scorer.joined(delta.added)


def add(home: Home, catalogue: Catalogue) -> AddedItems:
    return add_items(home, load_bundle(home.models / THREE.name), THREE, catalogue)


def scores(scorer: Scorer, candidates: Any = None) -> Scored:
    past = [(2, 1, NOW - 10**9, 5), (1, 2, NOW - 10**8, 5)]
    inputs = as_inputs([Request(history=past)])
    return scorer.score("red shoe", inputs, candidates, np.ones(1, np.float32))


def assert_equal(one: Scored, two: Scored) -> None:
    for name in ("ids", "dots", "cross_scores", "scores"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name), name)


def test_new_and_changed_items_score_as_in_an_index_of_the_whole_catalogue(
    home: Home, bundle: Bundle
) -> None:
    before = scores(served(home))
    first, second = items(range(590, 610), 1), items([-5, 4, 599, 601], 2)
    assert add(home, first) == AddedItems(new=15, changed=5, same=0, total=20)
    assert add(home, second) == AddedItems(new=1, changed=3, same=0, total=22)
    joined = served(home)
    found = scores(joined)
    whole = TRAINED.updated(first).updated(second)
    np.testing.assert_array_equal(found.ids, whole.ids)
    # What joined is made by the item tower from its attributes; a new id is the unknown item's.
    rows = np.arange(1, len(whole) + 1)
    inputs = item_inputs(whole, rows, *known_at(whole, len(rows), NOW))
    inputs["rows"] = torch.from_numpy(TRAINED.table().rows(whole.ids) + 1)
    with torch.inference_mode():
        plain = Scorer(bundle.model, TRAINED, whole.ids, bundle.model.encode_items(inputs))
    plain.items.created[:] = whole.created
    np.testing.assert_allclose(found.scores, scores(plain).scores, atol=2e-2)
    # Others score as before, and one index of both as base and delta do, to the last digit.
    kept = ~np.isin(before.ids, np.concatenate((first.ids, second.ids)))
    assert_equal(scores(joined, before.ids[kept]), scores(served(home), before.ids[kept]))
    np.testing.assert_array_equal(scores(joined, before.ids[kept]).scores, before.scores[kept])
    compact = built(home)
    assert not (home.index / THREE.name / POINTER).exists()
    assert_equal(scores(compact), found)
    some = np.random.default_rng(1).permutation(whole.ids)[:70]
    assert_equal(scores(compact, some), scores(joined, some))


def test_what_was_joined_is_kept_by_every_index_that_follows(home: Home) -> None:
    add(home, items([7, 9]))
    built(home)
    assert add(home, items([7, 9])) == AddedItems(new=0, changed=0, same=2, total=0)
    assert add(home, items([9, 10, 11], 1)) == AddedItems(new=1, changed=2, same=0, total=3)
    found = scores(served(home))
    assert_equal(scores(built(home)), found)
    assert_equal(scores(built(home)), found)
    assert {7, 9, 11} <= set(found.ids.tolist())


def test_items_that_are_as_they_were_are_left_alone(home: Home) -> None:
    assert add(home, TRAINED) == AddedItems(new=0, changed=0, same=300, total=0)
    assert not (home.index / THREE.name / POINTER).exists()
    add(home, items([1]))
    file = (home.index / THREE.name / POINTER).read_bytes()
    assert add(home, TRAINED.updated(items([1]))).same == 301
    assert (home.index / THREE.name / POINTER).read_bytes() == file
    # Changed, and changed back.
    assert add(home, items([2], 9)).changed == 1
    assert add(home, TRAINED.take(np.array([1]))).changed == 1
    assert_equal(scores(served(home), TRAINED.ids), scores(scorer_of_index(home), TRAINED.ids))


def scorer_of_index(home: Home) -> Scorer:
    of = load_bundle(home.models / THREE.name)
    return scorer_of(of, load_index(home, THREE, of.digest))


def test_a_file_that_was_named_is_not_changed_and_old_ones_go(home: Home) -> None:
    folder, seen = home.index / THREE.name, list[Path]()
    for key in (1, 3, 5, 7):
        add(home, items([key]))
        about = json.loads((folder / POINTER).read_text())
        seen.append(folder / about["file"])
        assert about["items"] == len(seen)
    # The one before stays for a reader that was told of it.
    assert sorted(folder.glob(PATTERN)) == sorted(seen[-2:])


def test_changed_items_are_no_difference_to_golden_requests(home: Home, bundle: Bundle) -> None:
    golden = golden_for(bundle)
    add(home, items(range(0, 100, 2), 5))
    # Of a replica's index alone, which others join afterwards; and of one that holds them.
    replay(golden, scorer_of_index(home), THREE)
    scorer = built(home)
    digest = load_bundle(home.models / THREE.name).digest
    others = load_index(home, THREE, digest).others
    assert others is not None
    replay(golden, scorer, THREE, others)
    with pytest.raises(StateError, match="does not score as it did"):
        replay(golden, scorer, THREE)


def test_what_the_version_cannot_read_is_refused_by_its_name(home: Home, bundle: Bundle) -> None:
    wide = items([1], embedding=np.ones((1, 3), np.float32))
    with pytest.raises(DataError, match="have 3 numbers, those that the version was"):
        add(home, wide)
    replace(LOG, numeric=("rating",)).save(home)
    with pytest.raises(StateError, match=r"items.numeric` \['price'\].*\['rating'\] now"):
        add(home, items([1]))
    LOG.save(home)
    with pytest.raises(NotReadyError, match="prerank index --version 4"):
        add_items(home, bundle, Version("4", "f" * 8), items([1]))
    with pytest.raises(StateError, match=r"other weights.*prerank index --version 3"):
        add_items(home, replace(bundle, digest="0" * 64), THREE, items([1]))


def test_too_many_are_refused_with_the_remedy(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(additions, "MAX_ADDED", 3)
    add(home, items([1, 3, 5]))
    with pytest.raises(DataError, match=r"4 items .* at most 3 .*prerank index --version 3"):
        add(home, items([7]))
    built(home)
    assert add(home, items([7])).total == 1


def damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-4] + b"four")


def test_damage_is_named_with_the_remedy(home: Home) -> None:
    folder = home.index / THREE.name
    add(home, items([1]))
    (file,) = folder.glob(PATTERN)
    damage(file)
    with pytest.raises(DamagedError, match=rf"{POINTER} is damaged: .*checksum. Remove it, and"):
        load_delta(folder)
    with pytest.raises(DamagedError, match="add-items"):
        built(home)
    (folder / POINTER).unlink()
    add(home, items([1]))
    built(home)
    damage(folder / ITEMS)
    with pytest.raises(DamagedError, match=rf"{ITEMS} is damaged: .*Remove .*prerank index"):
        served(home)
