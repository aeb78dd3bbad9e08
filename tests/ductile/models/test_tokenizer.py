"""One token for each character, and back."""

from __future__ import annotations

import string
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from ductile.models.tokenizer import CHARACTERS, EOS, PAD, UNKNOWN, character_tokenizer

PRINTABLE = "".join(map(chr, range(32, 127))) + "\n"
TOKENIZER = character_tokenizer()


def back(tokens: list[int]) -> str:
    return str(TOKENIZER.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def test_characters_are_printable_ascii_and_newline_each_once() -> None:
    assert sorted(CHARACTERS) == sorted(PRINTABLE)
    assert len(TOKENIZER) == len(PRINTABLE) + 3
    assert set(string.printable) - set(CHARACTERS) == set("\t\r\x0b\x0c")


def test_every_printable_character_is_one_token_of_its_own_and_comes_back() -> None:
    tokens = TOKENIZER(PRINTABLE)["input_ids"]
    assert len(tokens) == len(set(tokens)) == len(PRINTABLE)
    assert TOKENIZER.unk_token_id not in tokens
    assert back(tokens) == PRINTABLE


@given(st.text(alphabet=PRINTABLE, max_size=30))
def test_text_comes_back_as_it_was(text: str) -> None:
    tokens = TOKENIZER(text)["input_ids"]
    assert len(tokens) == len(text)
    assert back(tokens) == text


def test_runs_of_spaces_and_newlines_come_back_as_they_were() -> None:
    for text in ("   ", " a  b   c ", "\n\n", " .  ,  !", "a\n  b\n", "don ' t", "<pad", "< eos >"):
        assert len(TOKENIZER(text)["input_ids"]) == len(text)
        assert back(TOKENIZER(text)["input_ids"]) == text


def test_other_characters_are_unknown_each_on_its_own() -> None:
    assert TOKENIZER.convert_ids_to_tokens(TOKENIZER("aéb\t∑")["input_ids"]) == ["a", UNKNOWN, "b", UNKNOWN, UNKNOWN]


def test_special_tokens_have_their_roles_and_pad_on_the_left() -> None:
    assert (TOKENIZER.pad_token, TOKENIZER.eos_token, TOKENIZER.unk_token) == (PAD, EOS, UNKNOWN)
    assert TOKENIZER.bos_token_id is None
    padded = TOKENIZER(["ab", "a"], padding=True)["input_ids"]
    assert padded[1] == [TOKENIZER.pad_token_id, padded[0][0]]


def test_saved_tokenizer_is_the_same_when_loaded(tmp_path: Path) -> None:
    TOKENIZER.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    text = PRINTABLE + "  a   b \n"
    assert loaded.get_vocab() == TOKENIZER.get_vocab()
    assert loaded(text)["input_ids"] == TOKENIZER(text)["input_ids"]
    assert loaded.decode(loaded(text)["input_ids"], skip_special_tokens=True) == text
    assert loaded.padding_side == "left"
    assert (loaded.pad_token_id, loaded.eos_token_id) == (TOKENIZER.pad_token_id, TOKENIZER.eos_token_id)
