"""Token colours, parsed as the page would parse them."""

from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from workbench.panel import tokens
from workbench.panel.tokens import Colouring, colouring, completion_html, legend_html, missing

HOSTILE = "<script>x</script>&amp;"


class Spans(HTMLParser):
    """The text and class of every span of a completion."""

    def __init__(self, text):
        super().__init__()
        self.spans, self.tags = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "span":
            self.spans.append([dict(attrs)["class"], ""])

    def handle_data(self, data):
        self.spans[-1][1] += data


def group(pieces=("<think>", "3", "+", "</think>", "7", "<|end|>"), **columns):
    count = len(pieces)
    row = {
        "tokens": list(pieces),
        "thinking": [True] * (count - 2) + [False] * 2,
        "trained": [True] * (count - 2) + [False] * 2,
        "logprobs": np.linspace(-4.0, 0.0, count, dtype=np.float32),
        "entropies": np.linspace(0.0, 2.0, count, dtype=np.float32),
    }
    return pd.DataFrame([row | columns])


def spans(table, choice):
    how = colouring(choice, table)
    return Spans(completion_html(table.iloc[0], how)).spans


def test_gradient_colours_thinking_answer_and_masked_apart_one_span_a_run():
    assert spans(group(), "gradient") == [
        ["wb-t-thinking", "<think>3+</think>"], ["wb-t-off", "7<|end|>"],
    ]  # fmt: skip
    joint = group(trained=[True] * 6)
    assert [kind for kind, _ in spans(joint, "gradient")] == ["wb-t-thinking", "wb-t-answer"]
    reversed_ = group(trained=[False] * 4 + [True] * 2)
    assert [kind for kind, _ in spans(reversed_, "gradient")] == ["wb-t-off", "wb-t-answer"]


def test_the_least_likely_and_the_most_undecided_tokens_are_darkest():
    shades = [int(kind[4:]) for kind, _ in spans(group(), "log-prob")]
    assert shades == sorted(shades, reverse=True) and shades[0] == 7 and shades[-1] == 0
    shades = [int(kind[4:]) for kind, _ in spans(group(), "entropy")]
    assert shades == sorted(shades) and shades[0] == 0 and shades[-1] == 7


def test_a_scale_reaches_over_the_whole_group_and_to_its_natural_end():
    table = pd.concat([group(logprobs=np.full(6, -1.0)), group(logprobs=np.full(6, -2.0))])
    how = colouring("log-prob", table)
    assert (how.low, how.high) == (-2.0, 0.0)
    assert list(how.kinds(table.iloc[0])) == ["wb-t4"] * 6
    assert colouring("entropy", table).low == 0.0


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_equal_or_missing_numbers_are_the_palest_shade(value):
    table = group(entropies=np.full(6, value))
    assert spans(table, "entropy") == [["wb-t0", "<think>3+</think>7<|end|>"]]


def test_neighbours_of_one_shade_share_a_span():
    table = group(entropies=np.array([0.0, 0.01, 2.0, 2.0, 0.02, 0.0]))
    assert [text for _, text in spans(table, "entropy")] == ["<think>3", "+</think>", "7<|end|>"]


def test_the_spans_make_up_the_completion():
    pieces = ("<think>", " 3", "\n", "</think>", "é€", HOSTILE)
    for choice in tokens.CHOICES[1:]:
        assert "".join(text for _, text in spans(group(pieces), choice)) == "".join(pieces)


def test_hostile_pieces_are_inert_isolated_and_their_controls_are_signs():
    pieces = ("<think>", HOSTILE, "\u202e", "\x1b[31m\x00", "\x9b", "a\tb\n")
    parsed = Spans(completion_html(group(pieces).iloc[0], Colouring("gradient")))
    assert {tag for tag, _ in parsed.tags} == {"bdi", "span"}
    assert parsed.tags[0] == ("bdi", {"class": "wb-text", "dir": "auto"})
    text = "".join(text for _, text in parsed.spans)
    assert text == "<think>" + HOSTILE + "\\u202e\u241b[31m\u2400\\u009ba\tb\n"


def test_the_legend_names_every_look_and_the_ends_of_a_scale():
    table = group()
    text = legend_html(colouring("gradient", table), "gradient", table)
    for name in ("thinking, trained", "answer, trained", "masked: no gradient"):
        assert name in text
    scale = legend_html(colouring("log-prob", table), "log-prob", table)
    assert scale.index("-4.00 (unlikely)") < scale.index("wb-t7") < scale.index("wb-t0")
    assert scale.index("wb-t0") < scale.index("0.00 (certain)") and "nats" in scale
    scale = legend_html(colouring("entropy", table), "entropy", table)
    assert scale.index("0.00 (certain)") < scale.index("wb-t0") < scale.index("wb-t7")
    assert "2.00 (undecided)" in scale
    assert legend_html(Colouring(), "none", table) == ""


def test_without_a_mark_for_the_end_of_thinking_it_does_not_call_everything_an_answer():
    table = group(thinking=[False] * 6, trained=[True] * 6)
    text = legend_html(colouring("gradient", table), "gradient", table)
    assert "no </think>" in text.replace("&lt;", "<").replace("&gt;", ">")
    assert "<abc" not in text and "answer, trained" not in text


def test_files_from_before_the_columns_say_what_is_missing():
    old = group().drop(columns=["trained", "thinking"])
    assert missing("none", old) == missing("entropy", old) == ""
    how = colouring("gradient", old)
    assert how == Colouring() and "trained and thinking" in legend_html(how, "gradient", old)
    older = old.drop(columns=["tokens", "logprobs"])
    assert "tokens and logprobs" in missing("log-prob", older)


def test_sixteen_completions_stay_small():
    rng = np.random.default_rng(0)
    pieces = tuple(rng.choice(list("0123456789+-"), 64))
    row = group(pieces, entropies=rng.uniform(0, 2, 64))
    table = pd.concat([row] * 16)
    how = colouring("entropy", table)
    text = "".join(completion_html(one, how) for _, one in table.iterrows())
    assert len(text) < 16 * 64 * 32  # bytes; every token a span of its own at worst
    how = colouring("gradient", table)
    text = "".join(completion_html(one, how) for _, one in table.iterrows())
    assert len(text) < 16 * 200
