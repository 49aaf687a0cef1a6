"""The catalogue's file: what is saved is what is mapped."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from interactrank.features.catalogue import Catalogue


def catalogue(count: int, width: int, numeric: int) -> Catalogue:
    rng = np.random.default_rng(0)
    return Catalogue.build(
        ids=np.arange(count) * 3,
        titles=[f"red shoe {i}" for i in range(count)],
        categories=["", *["shoes"] * (count - 1)][:count],
        numeric=rng.random((count, numeric), np.float32),
        created=np.arange(count),
        text_from=5,
        category_from=6,
        embedding=rng.random((count, width), np.float32) if width else None,
        embedding_from=7,
    )


@pytest.mark.parametrize(
    ("count", "width", "numeric"), [(7, 3, 2), (7, 0, 0), (1, 5, 0), (0, 0, 1)]
)
def test_what_is_saved_is_what_is_mapped(
    count: int, width: int, numeric: int, tmp_path: Path
) -> None:
    saved = catalogue(count, width, numeric)
    saved.save(tmp_path / "catalogue.safetensors")
    mapped = Catalogue.load(tmp_path / "catalogue.safetensors")
    for field in fields(Catalogue):
        old, new = getattr(saved, field.name), getattr(mapped, field.name)
        assert (new.dtype, new.shape) == (old.dtype, old.shape), field.name
        np.testing.assert_array_equal(new, old)
        assert new.flags.aligned
        assert not new.flags.owndata
    assert mapped.table().rows(saved.ids).tolist() == list(range(count))


def test_attributes_are_always_known_unless_a_time_is_given() -> None:
    none = np.zeros((1, 0), np.float32)
    plain = Catalogue.build(np.arange(1), ["a"], [""], none, np.zeros(1, np.int64))
    since = plain.text_from, plain.category_from, plain.embedding_from
    assert [start.tolist() for start in since] == [[0], [0], [0]]
    assert plain.embedding.shape == (1, 0)


def test_torch_takes_the_arrays_and_no_write_reaches_the_file(tmp_path: Path) -> None:
    path = tmp_path / "catalogue.safetensors"
    catalogue(4, 2, 1).save(path)
    bytes_before = path.read_bytes()
    # Of an array that may not be written torch warns, and warnings are errors here.
    torch.from_numpy(Catalogue.load(path).numeric)[:] = 9.0
    assert path.read_bytes() == bytes_before
    assert not (Catalogue.load(path).numeric == 9.0).any()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("offsets", [0, 9, 6, 9, 12]),
        ("offsets", [0, 3, 6, 9, 2**40]),
        ("offsets", [-1, 3, 6, 9, 12]),
        ("offsets", [0, 3, 6, 12]),
        ("category", [0, 1, 2]),
        ("created", [0, 1, 2, 3, 4]),
        ("numeric", [[0.0]] * 3),
        ("embedding", [[0.0]] * 5),
    ],
)
def test_arrays_that_do_not_fit_together_are_refused(
    name: str, value: list[object], tmp_path: Path
) -> None:
    path, sound = tmp_path / "catalogue.safetensors", catalogue(4, 2, 1)
    dtype = getattr(sound, name).dtype
    replace(sound, **{name: np.array(value, dtype)}).save(path)
    with pytest.raises(ValueError, match=r"catalogue\.safetensors is damaged"):
        Catalogue.load(path)


def of(
    ids: list[int], titles: list[str], *, category: str = "shoes", price: float = 1.0
) -> Catalogue:
    return Catalogue.build(
        ids=np.array(ids, np.int64),
        titles=titles,
        categories=[category] * len(ids),
        numeric=np.full((len(ids), 2), [price, np.nan], np.float32),
        created=np.array(ids, np.int64) * 10,
        embedding=np.full((len(ids), 2), np.nan, np.float32),
    )


def assert_same(one: Catalogue, two: Catalogue) -> None:
    for field in fields(Catalogue):
        a, b = getattr(one, field.name), getattr(two, field.name)
        np.testing.assert_array_equal(a, b, field.name)
        assert a.dtype == b.dtype


def test_items_that_are_taken_have_their_texts() -> None:
    titles = ["red shoe", "", "blue bag of leather"]
    assert_same(of([1, 2, 3], titles).take(np.array([2, 1])), of([3, 2], titles[:0:-1]))
    assert_same(of([1, 2, 3], titles).take(np.zeros(0, np.int64)), of([], []))


def test_what_comes_later_takes_the_place_of_what_was() -> None:
    before = of([1, 3, 5], ["red shoe", "bag", ""])
    after = before.updated(of([2, 3, 9], ["lamp", "blue bag", "red"]))
    assert_same(after, of([1, 2, 3, 5, 9], ["red shoe", "lamp", "blue bag", "", "red"]))
    assert_same(before.updated(of([], [])), before)
    assert_same(of([], []).updated(before), before)


@pytest.mark.parametrize(
    ("other", "changed"),
    [
        (of([1, 2, 3], ["a b", "c", ""]), []),
        (of([3, 1], ["", "a b"]), [2]),
        (of([1, 2, 3], ["b a", "c", ""]), [1]),
        (of([1, 2, 3], ["a b", "c d", ""]), [2]),
        (of([1, 2, 3], ["a b", "", "c"]), [2, 3]),
        (of([1, 2, 3], ["a b", "c", ""], category="b"), [1, 2, 3]),
        (of([1, 2, 3], ["a b", "c", ""], price=np.nan), [1, 2, 3]),
        (replace(of([1, 2, 3], ["a b", "c", ""]), created=np.array([10, 21, 30])), [2]),
        (replace(of([1, 2, 3], ["a b", "c", ""]), embedding=np.ones((3, 2), "f4")), [1, 2, 3]),
    ],
)
def test_an_item_differs_if_any_of_its_attributes_does(
    other: Catalogue, changed: list[int]
) -> None:
    own = of([1, 2, 3], ["a b", "c", ""])
    assert own.ids[own.differs(other)].tolist() == changed
