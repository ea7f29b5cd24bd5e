"""The tiny tokenizer: decoding gives back what was encoded, and chat templates work."""

import random
from itertools import islice

import pytest

from workbench.tasks.demands import KINDS, draw, note
from workbench.tasks.lines import seeds
from workbench.tiny.corpus import Mixture, examples
from workbench.tiny.scribes import SCRIBES, writing
from workbench.tiny.tokenizer import LINES_WORDS, build_tokenizer, vocabulary


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


def test_a_conversation_becomes_few_tokens(tokenizer):
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Make 19 from 3 7 2"}],
        add_generation_prompt=True,
        return_dict=False,
    )
    assert tokenizer.convert_ids_to_tokens(ids) == [
        "<|bos|>", "<|user|>",
        "Make", " 1", "9", " from", " 3", " 7", " 2",
        "<|end|>", "<|assistant|>",
    ]  # fmt: skip


def test_decoding_gives_back_every_demonstration(tokenizer):
    mixture = Mixture(careful=0.4, rambling=0.4, guessing=0.2)
    for example in islice(examples(mixture, seed=0), 300):
        for text in (example.completion, example.messages[0]["content"]):
            ids = tokenizer.encode(text, add_special_tokens=False)
            assert tokenizer.unk_token_id not in ids
            assert tokenizer.decode(ids) == text


def test_round_trip_keeps_odd_spacing(tokenizer):
    text = "  Make 1 2\n ( 3+4 )=7 , wait, no? so.answer  10"
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids) == text


def test_skipping_special_tokens_keeps_the_thinking_marks(tokenizer):
    ids = tokenizer.encode("<think>1+2=3</think>3<|end|><|pad|>", add_special_tokens=False)
    assert len(ids) == 10
    assert tokenizer.decode(ids, skip_special_tokens=True) == "<think>1+2=3</think>3"


def test_unknown_words_do_not_fail(tokenizer):
    assert tokenizer.unk_token_id in tokenizer.encode("Zebra é 漢", add_special_tokens=False)


def test_batches_are_padded_on_the_left(tokenizer):
    batch = tokenizer(["1", "1+2"], padding=True, add_special_tokens=False)
    assert batch["input_ids"][0][:2] == [tokenizer.pad_token_id] * 2
    assert batch["attention_mask"] == [[0, 0, 1], [1, 1, 1]]


def test_a_conversation_with_an_answer_ends_each_turn(tokenizer):
    text = tokenizer.apply_chat_template(
        [
            {"role": "system", "content": "so"},
            {"role": "user", "content": "Compute 1+2"},
            {"role": "assistant", "content": "<think></think>3"},
        ],
        tokenize=False,
    )
    assert text == (
        "<|bos|><|system|>so<|end|><|user|>Compute 1+2<|end|><|assistant|><think></think>3<|end|>"
    )


def test_saving_and_loading_changes_nothing(tokenizer, tmp_path):
    from transformers import AutoTokenizer

    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    text = "<think>3*7=21 wait</think>3*7"
    assert loaded.encode(text, add_special_tokens=False) == tokenizer.encode(
        text, add_special_tokens=False
    )
    assert loaded.get_vocab() == vocabulary()
    assert loaded.chat_template == tokenizer.chat_template
    assert loaded.padding_side == "left"
    assert (loaded.pad_token, loaded.eos_token) == ("<|pad|>", "<|end|>")


def test_the_world_of_lines_has_a_token_for_every_word_it_uses():
    """Seeds, constraints, plans and lines of all kinds, with nothing unknown."""
    tokenizer = build_tokenizer(LINES_WORDS)
    for example in islice(writing(SCRIBES["scribe"], seed=0), 400):
        for text in (example.completion, example.messages[0]["content"]):
            ids = tokenizer.encode(text, add_special_tokens=False)
            assert tokenizer.unk_token_id not in ids
            assert tokenizer.decode(ids) == text
    rng = random.Random(0)
    for kind in KINDS:
        for _ in range(100):
            one = draw(kind, rng)
            for text in (one.text, f" {one.text}", note(one)):
                assert tokenizer.unk_token_id not in tokenizer.encode(
                    text, add_special_tokens=False
                )
    for seed in (*seeds("train"), *seeds("eval")):
        assert tokenizer.unk_token_id not in tokenizer.encode(seed, add_special_tokens=False)
    assert "moss" not in vocabulary() and "Arvik" not in vocabulary(LINES_WORDS)
