"""Chat templates in the form of six families: switches, roles, opened thoughts, tags, ends of a turn."""

import random

import pytest

from workbench.tiny.tokenizer import build_tokenizer
from workbench.tokens import (
    OTHER_TAGS,
    THINK_TAGS,
    Tags,
    check_thinking,
    closes_thought,
    completing,
    find_tags,
    in_common_tags,
    opens_thought,
    render,
    turn_end,
)
from workbench.variants import WorkbenchError

BODY = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
)
SYSTEM = "{% if messages[0].role != 'system' %}<|im_start|>system\nYou help.<|im_end|>\n{% endif %}"
TEMPLATES = {
    "qwen2.5": SYSTEM + BODY + "{% endif %}",
    "qwen3": BODY
    + "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
    "{% endif %}",
    "r1-distill": "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}<|User|>{{ m.content }}"
    "{% elif m.role == 'assistant' %}<|Assistant|>{{ m.content }}{{ eos_token }}"
    "{% else %}{{ m.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|Assistant|><think>\n{% endif %}",
    "llama3.2": "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{{ m.content | trim }}<|eot_id|>{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant"
    "<|end_header_id|>\n\n{% endif %}",
    "gemma2": "{{ bos_token }}{% if messages[0].role == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}{% for m in messages %}"
    "<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content }}<end_of_turn>\n"
    "{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}",
    "deepseek-v3.1": "{% if not thinking is defined %}{% set thinking = false %}{% endif %}"
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{{ '<think>' if thinking else '</think>' }}{% endif %}",
    "granite3.3": "{%- if thinking %}<|system|>Think first.\n{% endif -%}"
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}",
    # The word alone is no switch: in text, as a name of the template's own, as a part of a message.
    "wordy": "{% set thinking = 'enable_thinking' %}{# thinking #}thinking {{ thinking }}"
    "{% for m in messages %}{% if m.thinking %}{{ m.thinking }}{% endif %}{{ m.content }}{% endfor %}",
    "deaf": "{% for m in messages %}{% if m.role == 'user' %}Q: {{ m.content }}\nA:{% endif %}"
    "{% endfor %}",
}
ENDS = {
    "qwen2.5": "<|im_end|>",
    "qwen3": "<|im_end|>",
    "llama3.2": "<|eot_id|>",
    "gemma2": "<end_of_turn>",
}
USER = [{"role": "user", "content": "Make 24"}]
BOTH = [{"role": "system", "content": "Be short."}, *USER]


@pytest.fixture
def speaker():
    """family -> the tiny tokenizer with that family's template and end of turn."""

    def build(family, *tokens):
        tokenizer = build_tokenizer()
        tokenizer.chat_template = TEMPLATES[family]
        tokenizer.add_tokens([*tokens, *([ENDS[family]] if family in ENDS else [])])
        return tokenizer

    return build


# ------------------------------------------------------------------ prompts


@pytest.mark.parametrize(
    ("thinking", "end"),
    [
        ("auto", "assistant\n"),
        ("on", "assistant\n"),
        ("off", "assistant\n<think>\n\n</think>\n\n"),
    ],
)
def test_the_switch_reaches_a_template_that_has_one(speaker, thinking, end):
    tokenizer = speaker("qwen3")
    check_thinking(tokenizer, "m", thinking)
    wanted = f"<|im_start|>user\nMake 24<|im_end|>\n<|im_start|>{end}"
    assert render(tokenizer, USER, "m", thinking) == wanted


@pytest.mark.parametrize(
    ("family", "off", "on"),
    [
        ("deepseek-v3.1", ("", "</think>"), ("", "<think>")),
        ("granite3.3", ("", ""), ("<|system|>Think first.\n", "")),
    ],
)
def test_a_switch_may_have_another_name(speaker, family, off, on):
    tokenizer = speaker(family)
    for thinking, (before, after) in (("auto", off), ("off", off), ("on", on)):
        check_thinking(tokenizer, "m", thinking)
        wanted = f"{before}<|user|>Make 24<|assistant|>{after}"
        assert render(tokenizer, USER, "m", thinking) == wanted


SWITCHED = ("qwen3", "deepseek-v3.1", "granite3.3")


@pytest.mark.parametrize("family", [f for f in TEMPLATES if f not in SWITCHED])
@pytest.mark.parametrize("thinking", ["on", "off"])
def test_without_a_switch_only_auto_is_allowed(speaker, family, thinking):
    check_thinking(speaker(family), "m", "auto")
    with pytest.raises(
        WorkbenchError, match="of 'm' has no switch for it .enable_thinking or thinking.; set"
    ):
        check_thinking(speaker(family), "m", thinking)


def test_a_system_message_is_used_where_there_is_a_place_for_it(speaker):
    assert render(speaker("qwen2.5"), BOTH, "m").startswith(
        "<|im_start|>system\nBe short.<|im_end|>"
    )
    assert render(speaker("qwen2.5"), USER, "m").startswith("<|im_start|>system\nYou help.")


@pytest.mark.parametrize(
    ("family", "wanted"),
    [
        (
            "gemma2",
            "{bos}<start_of_turn>user\nBe short.\n\nMake 24<end_of_turn>\n<start_of_turn>model\n",
        ),
        ("deaf", "Q: Be short.\n\nMake 24\nA:"),
    ],
)
def test_a_system_message_that_is_refused_or_dropped_goes_before_the_users(speaker, family, wanted):
    tokenizer = speaker(family)
    assert render(tokenizer, BOTH, "m") == wanted.format(bos=tokenizer.bos_token)


def test_a_template_that_refuses_says_which_and_why(speaker):
    tokenizer = speaker("qwen2.5")
    tokenizer.chat_template = "{{ raise_exception('Roles must alternate') }}"
    for messages in (USER, BOTH):
        with pytest.raises(
            WorkbenchError, match="of 'm' refuses .*: Roles must alternate. Give the"
        ):
            render(tokenizer, messages, "m")


@pytest.mark.parametrize("family", TEMPLATES)
def test_the_beginning_of_a_text_is_written_once(speaker, family):
    tokenizer = speaker(family)
    ids = tokenizer.encode(render(tokenizer, USER, "m"), add_special_tokens=False)
    assert ids.count(tokenizer.bos_token_id) == TEMPLATES[family].count("bos_token")


@pytest.mark.parametrize("family", TEMPLATES)
def test_the_end_of_a_turn_is_read_off_the_template(speaker, family):
    tokenizer = speaker(family)
    found = turn_end(tokenizer)
    wanted = ENDS.get(family, tokenizer.eos_token if family == "r1-distill" else None)
    assert (None if found is None else tokenizer.convert_ids_to_tokens(found)) == wanted


def test_a_template_that_takes_no_answers_has_no_end_of_turn(speaker):
    tokenizer = speaker("qwen2.5")
    tokenizer.chat_template = "{{ raise_exception('no') }}"
    assert turn_end(tokenizer) is None


# ------------------------------------------------------------------ thoughts


def test_a_thought_that_the_template_opens_is_known_by_the_prompts_end(speaker):
    opened = {f: opens_thought(render(speaker(f), USER, "m"), THINK_TAGS) for f in TEMPLATES}
    assert [family for family, yes in opened.items() if yes] == ["r1-distill"]
    assert not opens_thought(render(speaker("qwen3"), USER, "m", "off"), THINK_TAGS)


def test_a_thought_that_the_template_has_closed_is_known_by_the_prompts_end(speaker):
    closed = {
        (family, thinking)
        for family in TEMPLATES
        for thinking in (("auto", "on", "off") if family in SWITCHED else ("auto",))
        if closes_thought(render(speaker(family), USER, "m", thinking), THINK_TAGS)
    }
    assert closed == {("qwen3", "off"), ("deepseek-v3.1", "off"), ("deepseek-v3.1", "auto")}
    assert closes_thought("a[/T]\n", Tags("[T]", "[/T]"))


@pytest.mark.parametrize("tags", OTHER_TAGS, ids=lambda tags: tags.open)
def test_tags_are_found_in_the_template_where_the_vocabulary_lacks_them(speaker, monkeypatch, tags):
    tokenizer = speaker("qwen2.5")
    known = {t: i for t, i in tokenizer.get_vocab().items() if t not in THINK_TAGS}
    monkeypatch.setattr(tokenizer, "get_vocab", lambda: known)
    assert find_tags(tokenizer) == THINK_TAGS  # nothing to go by
    tokenizer.chat_template += f"{{# {tags.open} #}}"
    assert find_tags(tokenizer) == tags
    known[THINK_TAGS.close] = 5
    assert find_tags(tokenizer) == THINK_TAGS  # a token of its own says more


def test_tags_can_be_given(speaker):
    assert find_tags(speaker("qwen2.5"), "[T] [/T]") == Tags("[T]", "[/T]")
    for wrong in ("<think>", "a a", "a b c"):
        with pytest.raises(
            WorkbenchError, match="give the opening and the closing tag with a space"
        ):
            find_tags(speaker("qwen2.5"), wrong)


def test_texts_have_the_common_tags(speaker):
    channels = OTHER_TAGS[-1]
    text = f"{channels.open}2 * 12{channels.close}24"
    assert in_common_tags(text, channels) == "<think>2 * 12</think>24"
    assert in_common_tags(text, THINK_TAGS) == text


class Letters:
    """A tokenizer of which each token is one of these strings."""

    TOKENS = ("ab", "</", "think", ">", ">\n", "c", "<think>", "</think>")

    def decode(self, ids, **options):
        return "".join(self.TOKENS[i] for i in ids)

    def batch_decode(self, rows, **options):
        return [self.decode(row) for row in rows]


def test_a_closing_tag_of_several_tokens_ends_with_the_token_that_completes_it():
    rows = [
        [0, 1, 2, 3, 5],  # ab </ think > c
        [0, 1, 2, 4, 5],  # the last piece of the tag may hold more
        [1, 2, 3, 0, 1, 2, 4],  # twice
        [0, 1, 2, 5],  # never complete
        [7, 0],
        [],
    ]
    assert completing(Letters(), rows, "</think>") == [[3], [3], [2, 6], [], [0], []]


def test_each_place_is_found_in_few_looks(monkeypatch):
    """Against every beginning of the row; texts without what is wanted are not looked at again."""
    generator = random.Random(0)
    rows = [[generator.choice((0, 1, 1, 2, 2, 3, 4)) for _ in range(200)] for _ in range(30)]
    several = 0
    for row, places in zip(rows, completing(Letters(), rows, "</think>"), strict=True):
        counts = [Letters().decode(row[:n]).count("</think>") for n in range(201)]
        assert places == [n for n in range(200) if counts[n + 1] > counts[n]]
        several += len(places) > 1
    assert several > 20
    looks = []
    decode = Letters.decode
    monkeypatch.setattr(
        Letters, "batch_decode", lambda self, rows, **_: [decode(self, r) for r in rows]
    )
    monkeypatch.setattr(
        Letters, "decode", lambda self, ids, **_: looks.append(0) or decode(self, ids)
    )
    assert completing(Letters(), [[0] * 500, [0] * 250 + [1, 2, 3] + [5] * 250], "</think>") == [
        [],
        [252],
    ]
    assert len(looks) <= 10
