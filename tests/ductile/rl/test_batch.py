"""Micro-batches lose and repeat nothing, keep their bound, march in step over ranks, and their masks point right."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ductile.packed import pack
from ductile.rl.batch import AREA, Batch, MicroBatch, Row, deal, micro_batches, pad_rows

Contents = tuple[tuple[int, ...], tuple[int, ...], tuple[float, ...], float, float]


def make_row(number: int, prompt: int, completion: int) -> Row:
    """Every token, log-probability, advantage and weight tells whose it is. Token 0 never occurs: it is the padding."""
    ids = np.arange(prompt + completion, dtype=np.int32) + 100 * number + 1
    logps = -np.arange(1, completion + 1, dtype=np.float32) - 100 * number
    return Row(ids[:prompt], ids[prompt:], logps, advantage=(-1.0) ** number * (number + 1), weight=0.5 + number)


def contents(row: Row) -> Contents:
    return (
        tuple(row.prompt.tolist()),
        tuple(row.completion.tolist()),
        tuple(row.behaviour_logps.tolist()),
        row.advantage,
        row.weight,
    )


def read_back(micro: MicroBatch) -> list[Contents]:
    """The rows of a micro-batch, from its tensors alone."""
    packed, rows = micro.packed, []
    side_by_side = [line for spread in packed.spreads for line in spread]
    lines = [line[:length] for line, length in zip(side_by_side, packed.lengths.tolist(), strict=True)]
    assert all(line.shape[0] <= 1.25 * length for line, length in zip(side_by_side, map(len, lines), strict=True))
    assert packed.ids[torch.cat(side_by_side)[packed.back]].tolist() == packed.ids.tolist()
    for i in range(len(lines)):
        own = packed.rows == i
        line = next(line for line in lines if line[-1] == packed.kept[own][-1])
        length, inputs = len(line), packed.ids[line].tolist()
        assert packed.positions[line].tolist() == list(range(length))
        assert packed.kept[own].tolist() == line[length - int(own.sum()) :].tolist()
        [advantage], [weight] = (sorted(set(values[own].tolist())) for values in (micro.advantages, micro.weights))
        completion = packed.targets[own].tolist()
        assert inputs[length - int(own.sum()) + 1 :] == completion[:-1]
        prompt = inputs[: length - int(own.sum()) + 1]
        rows.append((tuple(prompt), tuple(completion), tuple(micro.behaviour_logps[own].tolist()), advantage, weight))
    return rows


def shared(lengths: list[tuple[int, int, int]]) -> Batch:
    """Rows of which some have the prompt of another: (prompt, completion, number of the row whose prompt it is)."""
    rows = [make_row(i, prompt, completion) for i, (prompt, completion, _) in enumerate(lengths)]
    prompts = [rows[of % len(rows)].prompt for *_, of in lengths]
    return Batch(tuple(replace(row, prompt=prompt) for row, prompt in zip(rows, prompts, strict=True)))


batches = st.lists(st.tuples(st.integers(1, 5), st.integers(1, 9), st.integers(0, 20)), min_size=1, max_size=12).map(
    shared
)


@given(batch=batches, max_tokens=st.integers(1, 60))
def test_every_row_is_in_exactly_one_micro_batch_with_all_it_has(batch: Batch, max_tokens: int) -> None:
    found = [row for micro in micro_batches(batch, max_tokens) for row in read_back(micro)]
    assert sorted(found) == sorted(contents(row) for row in batch.rows)


@given(batch=batches, max_tokens=st.integers(1, 60), world=st.integers(1, 3))
def test_micro_batch_keeps_its_bounds_unless_it_is_one_row(batch: Batch, max_tokens: int, world: int) -> None:
    for rank in range(world):
        for micro in micro_batches(batch, max_tokens, rank=rank, world=world):
            packed, side_by_side = len(micro.packed.ids), int(micro.packed.lengths.sum())
            one = len(micro.packed.lengths) == 1
            assert one or (packed <= max_tokens and side_by_side <= AREA * max_tokens)


def test_rows_share_a_micro_batch_up_to_the_bound() -> None:
    batch = Batch(tuple(make_row(i, 2, 3) for i in range(5)))
    assert [len(micro.packed.lengths) for micro in micro_batches(batch, 10)] == [2, 2, 1]
    assert [len(micro.packed.lengths) for micro in micro_batches(batch, 9)] == [1] * 5
    assert [len(micro.packed.lengths) for micro in micro_batches(batch, 25)] == [5]


@given(batch=batches, max_tokens=st.integers(1, 60), world=st.integers(1, 4))
def test_ranks_march_in_step_and_together_hold_each_row_once(batch: Batch, max_tokens: int, world: int) -> None:
    ranks = [micro_batches(batch, max_tokens, rank=rank, world=world) for rank in range(world)]
    assert len({len(micros) for micros in ranks}) == 1
    rows = [row for micros in ranks for micro in micros for row in read_back(micro)]
    assert sorted(row for row in rows if row[-1] > 0) == sorted(contents(row) for row in batch.rows)
    assert all(row[-2:] == (0.0, 0.0) for row in rows if row[-1] <= 0)


@given(batch=batches, max_tokens=st.integers(1, 60), world=st.integers(1, 4))
def test_weighted_sums_over_ranks_are_those_of_the_whole_batch(batch: Batch, max_tokens: int, world: int) -> None:
    total = sum(
        float((micro.behaviour_logps * micro.weights * micro.advantages).sum())
        for rank in range(world)
        for micro in micro_batches(batch, max_tokens, rank=rank, world=world)
    )
    expected = sum(
        float(row.behaviour_logps.astype(np.float64).sum()) * row.weight * row.advantage for row in batch.rows
    )
    assert total == pytest.approx(expected, rel=1e-5, abs=1e-2)


def test_batch_without_rows_has_no_micro_batches() -> None:
    assert micro_batches(Batch(()), 10) == []
    assert micro_batches(Batch(()), 10, rank=1, world=2) == []


def test_padding_and_shifted_mask_by_hand() -> None:
    """Position t of the mask speaks of the token at t + 1, as logits do."""
    first = (np.array([5, 6, 7], np.int32), np.array([8, 9], np.int32))
    second = (np.array([1], np.int32), np.array([2, 3], np.int32))
    padded = pad_rows([first, second])
    assert padded.ids.tolist() == [[5, 6, 7, 8, 9], [1, 2, 3, 0, 0]]
    assert padded.mask.tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
    assert padded.completion.tolist() == [[False, False, True, True], [True, True, False, False]]


def test_packed_rows_by_hand() -> None:
    rows = (
        Row(np.array([5, 6, 7], np.int32), np.array([8, 9], np.int32), np.array([-1.0, -2.0], np.float32), 1.0, 0.25),
        Row(np.array([1], np.int32), np.array([2, 3], np.int32), np.array([-3.0, -4.0], np.float32), -1.0, 0.75),
    )
    (micro,) = micro_batches(Batch(rows), 100)
    packed = micro.packed
    assert packed.ids.tolist() == [1, 2, 5, 6, 7, 8]  # the shorter first; what ends a completion predicts nothing
    assert packed.positions.tolist() == [0, 1, 0, 1, 2, 3]
    assert packed.kept.tolist() == [0, 1, 4, 5] and packed.targets.tolist() == [2, 3, 8, 9]
    assert micro.behaviour_logps.tolist() == [-3.0, -4.0, -1.0, -2.0]
    assert micro.advantages.tolist() == [-1.0, -1.0, 1.0, 1.0]
    assert micro.weights.tolist() == [0.75, 0.75, 0.25, 0.25]
    assert micro.advantages.dtype == micro.weights.dtype == micro.behaviour_logps.dtype == torch.float32


def test_rows_of_one_prompt_share_it_by_hand() -> None:
    prompt, other = np.array([5, 6], np.int32), np.array([5], np.int32)
    rows = [
        (prompt, np.array([7, 8], np.int32)),
        (other, np.array([3], np.int32)),
        (prompt, np.array([9, 4, 2], np.int32)),
    ]
    packed = pack(rows)
    assert packed.ids.tolist() == [5, 6, 7, 5, 9, 4]
    assert packed.positions.tolist() == [0, 1, 2, 0, 2, 3]
    assert [spread.tolist() for spread in packed.spreads] == [[[3]], [[0, 1, 2]], [[0, 1, 4, 5]]]
    assert packed.lengths.tolist() == [1, 3, 4]
    assert packed.back.tolist() == [1, 2, 3, 0, 6, 7]
    assert packed.kept.tolist() == [1, 2, 3, 1, 4, 5]
    assert packed.targets.tolist() == [7, 8, 3, 9, 4, 2]
    assert packed.rows.tolist() == [0, 0, 1, 2, 2, 2]


@pytest.mark.parametrize(("lengths", "widths"), [([9, 10, 11, 12], [10, 12]), ([33, 40, 41, 64], [40, 41, 64])])
def test_rows_of_about_one_length_are_laid_out_together(lengths: list[int], widths: list[int]) -> None:
    packed = pack([(np.arange(length, dtype=np.int32), np.array([1], np.int32)) for length in lengths])
    assert [spread.shape[1] for spread in packed.spreads] == widths


def test_rows_of_one_prompt_stay_together_whatever_the_lengths_of_others() -> None:
    rows = [make_row(number, 3, length) for number, length in enumerate([2, 5, 9, 4])]
    asked_twice = replace(make_row(9, 3, 7), prompt=rows[0].prompt)
    shares = deal([*rows, asked_twice], 1)
    assert shares == [[3, 1, 0, 4, 2]]
