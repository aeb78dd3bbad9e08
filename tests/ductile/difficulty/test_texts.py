"""Texts packed in bytes: any `str` comes back as it was, equal texts alone are the same, hashes tell texts apart."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ductile.difficulty.texts import Texts, hashed, pack, same, unpack

anything = st.text(st.characters(exclude_categories=()), max_size=20)  # half surrogate pairs and newlines included


@given(st.lists(anything))
def test_texts_come_back_as_they_were(texts: list[str]) -> None:
    packed = pack(texts)
    assert unpack(packed) == texts
    assert packed.joined().tobytes() == b"".join(text.encode("utf-8", "surrogatepass") for text in texts)


@given(st.lists(anything, min_size=1), st.data())
def test_some_of_them_are_joined_in_the_order_asked_for(texts: list[str], data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.integers(0, len(texts) - 1)))
    taken = pack(texts).take(np.array(chosen, np.int64))
    assert unpack(taken) == [texts[position] for position in chosen]
    assert taken.joined().tobytes() == b"".join(texts[c].encode("utf-8", "surrogatepass") for c in chosen)


@given(st.lists(st.tuples(anything, anything)), st.lists(anything))
def test_same_is_equality(pairs: list[tuple[str, str]], more: list[str]) -> None:
    pairs += [(text, text) for text in more]
    ours, theirs = pack([a for a, _ in pairs]), pack([b for _, b in pairs])
    assert same(ours, theirs).tolist() == [a == b for a, b in pairs]


@pytest.mark.parametrize("length", [1, 7, 8, 9, 16, 37])
def test_a_change_of_any_one_byte_is_seen(length: int) -> None:
    text = "x" * length
    changed = [text[:at] + "y" + text[at + 1 :] for at in range(length)]
    assert not same(pack([text] * length), pack(changed)).any()
    assert len(set(hashed(pack([text, *changed])).tolist())) == length + 1


@given(st.lists(anything), st.lists(anything))
def test_hash_depends_on_the_text_and_not_on_its_neighbours(before: list[str], texts: list[str]) -> None:
    packed = pack([*before, *texts])
    assert hashed(packed)[len(before) :].tolist() == [int(hashed(pack([text]))[0]) for text in texts]


def test_hash_is_the_same_in_every_process_and_tells_zeros_by_their_number() -> None:
    def by_hand(text: bytes) -> int:
        mask, (first, second) = 2**64 - 1, (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53)
        value = (len(text) + 1) * second & mask
        for start in range(0, len(text), 8):
            product = (value ^ int.from_bytes(text[start : start + 8], "little")) * first & mask
            value = product ^ (product >> 32)
        for factor in (first, second):
            value = (value ^ (value >> 33)) * factor & mask
        return value ^ (value >> 33)

    texts = ["", "\0", "\0\0", "chain_sum/L12/train/s690537339276>1:", "12345678", "é" * 9]
    assert hashed(pack(texts)).tolist() == [by_hand(text.encode()) for text in texts]


def test_hashes_of_ids_that_differ_by_a_digit_are_spread() -> None:
    low = hashed(pack([f"chain_sum/L12/train/s{number:012d}>1:" for number in range(4096)])) & np.uint64(4095)
    share = len(np.unique(low)) / 4096
    assert share == pytest.approx(1 - np.exp(-1), abs=0.03)  # of n balls in n bins


def test_what_is_no_text_is_refused() -> None:
    with pytest.raises(TypeError):
        pack(["a", 3])  # type: ignore[list-item]


def test_parts_are_all_of_them_in_order() -> None:
    texts = [str(number) for number in range(7)]
    parts = [unpack(part) for part in pack(texts).parts(3)]
    assert parts == [["0", "1", "2"], ["3", "4", "5"], ["6"]]
    assert isinstance(pack(texts).take(slice(2)), Texts)
