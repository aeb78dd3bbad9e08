"""Ids to rows and back: against a dict, whatever the characters, however the hashes collide, however it has grown."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from ductile.difficulty import index as module
from ductile.difficulty.index import IdIndex
from ductile.difficulty.texts import Texts, hashed

texts = st.text(st.characters(exclude_categories=()), max_size=4)
batches = st.lists(st.lists(texts, max_size=12), max_size=5)


def nearly_alike(texts: Texts) -> NDArray[np.uint64]:
    """A hash that has two values only."""
    return hashed(texts) & np.uint64(1)


def all_alike(texts: Texts) -> NDArray[np.uint64]:
    return np.full(len(texts), 2**64 - 1, np.uint64)


HASHES = [hashed, nearly_alike, all_alike]


@pytest.mark.parametrize("hashes", HASHES)
@given(batches)
def test_it_is_a_dict(hashes: object, batches: list[list[str]]) -> None:
    made, rows = IdIndex(hashes), {}  # type: ignore[arg-type,var-annotated]
    for ids in batches:
        got, new = made.add(ids)
        assert new == len({*ids} - rows.keys())
        for id, row in zip(ids, got.tolist(), strict=True):
            assert rows.setdefault(id, row) == row
        assert sorted(rows.values()) == list(range(len(made)))
    assert made.rows(list(rows)).tolist() == list(rows.values())
    assert made.ids(np.array([*rows.values()], np.int64)) == list(rows)


@given(batches)
def test_rows_are_numbered_in_the_order_in_which_ids_come(batches: list[list[str]]) -> None:
    made = IdIndex()
    for ids in batches:
        made.add(ids)
    everything = dict.fromkeys(id for ids in batches for id in ids)
    assert made.ids(np.arange(len(made))) == list(everything)


@pytest.mark.parametrize("hashes", HASHES)
@given(batches, batches)
def test_restored_index_goes_on_exactly(hashes: object, before: list[list[str]], after: list[list[str]]) -> None:
    made, copy = IdIndex(hashes), IdIndex(hashes)  # type: ignore[arg-type]
    copy.add(["what", "was", "there"])
    for ids in before:
        made.add(ids)
    copy.restore(made.snapshot())
    for ids in after:
        ours, theirs = made.add(ids), copy.add(ids)
        assert ours[0].tolist() == theirs[0].tolist() and ours[1] == theirs[1]
    assert [array.tobytes() for array in made.snapshot().values()] == [
        array.tobytes() for array in copy.snapshot().values()
    ]


def test_snapshot_stays_as_it_is_while_the_index_grows() -> None:
    made = IdIndex()
    made.add(["a", "b"])
    kept = made.snapshot()
    made.add(["c" * 50])
    made.add(["d"])
    copy = IdIndex()
    copy.restore(kept)
    assert copy.ids(np.arange(len(copy))) == ["a", "b"]


@pytest.mark.parametrize("part", [1, 2, 5])
def test_ids_of_several_parts_are_those_of_one(part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = ["a", "b", "a", "", "b", "c\n", "d", "a", "c\n", "\ud800", "e" * 30]
    whole, parted = IdIndex(), IdIndex()
    rows, _ = whole.add(ids)
    monkeypatch.setattr(module, "PART", part)
    assert parted.add(ids)[0].tolist() == rows.tolist() == [0, 1, 0, 2, 1, 3, 4, 0, 3, 5, 6]
    assert parted.rows(ids).tolist() == rows.tolist()
    copy = IdIndex()
    copy.restore(parted.snapshot())
    assert copy.rows(ids).tolist() == rows.tolist()


def test_many_ids_stay_apart_while_the_slots_are_built_anew() -> None:
    ids = [f"chain_sum/L12/train/s{number:012d}>1:" for number in range(3000)]
    made = IdIndex()
    for first in range(0, 3000, 70):
        made.add(ids[first : first + 70])
    assert made.rows(ids[::-1]).tolist() == list(range(2999, -1, -1))


def test_unknown_ids_are_named_and_nothing_is_added() -> None:
    made = IdIndex()
    made.add(["a", "b"])
    with pytest.raises(KeyError, match="elsewhere, nowhere"):
        made.rows(["a", "elsewhere", "b", "nowhere"])
    assert len(made) == 2


def test_what_is_no_id_adds_nothing() -> None:
    made = IdIndex()
    with pytest.raises(TypeError):
        made.add(["a", 1])  # type: ignore[list-item]
    assert len(made) == 0


def test_empty_index_and_empty_calls() -> None:
    made = IdIndex()
    assert made.add([])[0].tolist() == [] and made.rows([]).tolist() == [] and made.ids(np.zeros(0, np.int64)) == []
    copy = IdIndex()
    copy.restore(made.snapshot())
    assert len(copy) == 0 and copy.add(["a"])[0].tolist() == [0]
