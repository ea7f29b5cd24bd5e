"""Pieces of text by token, with tokenizers made on the spot."""

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from workbench.pieces import CONTEXT, pieces
from workbench.tiny.tokenizer import build_tokenizer


def by_bytes():
    """Every byte a token, as the rarest characters are in a large model's vocabulary."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=core)


def by_words():
    """Words with a mark for the space before them, which the decoder drops at the start of a text."""
    words = ["▁so", "▁it", "▁is", "."]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="."))
    core.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=core)


def whole(tokenizer, ids):
    return tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def test_every_token_of_the_tiny_world_is_its_own_text_special_ones_too():
    tokenizer = build_tokenizer()
    ids = tokenizer.encode("<think>3 + 4 = 7</think>7<|end|>", add_special_tokens=False)
    (found,) = pieces(tokenizer, [ids])
    assert found[0] == "<think>" and found[-1] == "<|end|>" and "</think>" in found
    assert "".join(found) == "<think>3 + 4 = 7</think>7<|end|>"


def test_a_character_of_several_tokens_goes_to_the_last_of_them():
    tokenizer = by_bytes()
    ids = tokenizer.encode("aé€😀b")
    (found,) = pieces(tokenizer, [ids])
    assert found == ["a", "", "é", "", "", "€", "", "", "", "😀", "b"]


def test_bytes_that_are_no_character_are_kept_and_every_text_is_made_up_of_its_pieces():
    tokenizer = by_bytes()
    smile = tokenizer.encode("😀")
    rows = [smile[:2], [*smile[:3], *tokenizer.encode("ok é")], smile * CONTEXT, [], smile[1:3] * 9]
    for row, found in zip(rows, pieces(tokenizer, rows), strict=True):
        assert len(found) == len(row) and "".join(found) == whole(tokenizer, row)


def test_a_space_that_depends_on_the_place_is_where_the_text_has_it():
    tokenizer = by_words()
    assert whole(tokenizer, [1]) == "it"  # by itself without its space
    (found,) = pieces(tokenizer, [[0, 1, 2, 0, 1, 2, 0, 3]])
    assert found == ["so", " it", " is", " so", " it", " is", " so", "."]
