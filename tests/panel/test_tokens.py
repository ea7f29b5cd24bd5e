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
        "advantages": np.full(count, 0.5, dtype=np.float32),
        "log_ratios": np.linspace(-1.0, 2.0, count, dtype=np.float32),
        "guides": np.linspace(0.6, 1.2, count, dtype=np.float32),
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


@pytest.mark.parametrize(
    ("choice", "column", "said"),
    [
        ("gradient", "trained", "what got gradient is saved with training batches"),
        ("advantage", "advantages", "No advantage here: it is saved with training batches"),
        ("log-ratio", "log_ratios", "with an anchor, at evaluations and after the button Step"),
        ("guide", "guides", "only an anchor with a guide, such as sage, has a q for each token"),
        ("log-prob", "logprobs", "No log-prob here: older runs did not save it."),
        ("entropy", "entropies", "No entropy here"),
        ("advantage", "tokens", "saved without their tokens"),
    ],
)
def test_a_file_without_a_column_says_why_in_one_sentence(choice, column, said):
    old = group().drop(columns=[column])
    how = colouring(choice, old)
    text = legend_html(how, choice, old)
    assert how == Colouring() and said in text and text.count(".") == 1
    assert missing("none", old) == "" and missing(choice, group()) == ""


# ------------------------------------------------------------------ signed scales


def shades(table, choice):
    """Signed depths: up is positive, down negative."""
    found = []
    for kind, text in spans(table, choice):
        side, _, depth = kind.partition(" wb-k")
        found += [{"wb-up": 1, "wb-down": -1, "wb-t0": 0}[side] * int(depth or 0)] * len(text)
    return found


def signs(*values, column="advantages"):
    return group(pieces=("a",) * len(values), **{column: np.array(values, dtype=np.float32)})


def test_a_signed_scale_reaches_as_far_below_as_above_its_middle():
    assert shades(signs(-2.0, -1.0, 0.0, 1.0), "advantage") == [-7, -4, 0, 4]
    how = colouring("advantage", signs(-2.0, 1.0))
    assert (how.low, how.high) == (-2.0, 2.0)
    table = signs(0.8, 1.0, 1.2, 1.4, column="guides")  # around 1
    assert shades(table, "guide") == [-4, 0, 4, 7]
    assert colouring("guide", table).low == pytest.approx(0.6)


def test_the_smallest_value_off_the_middle_shows_its_sign_and_noise_does_not():
    assert shades(signs(10.0, 0.1, -0.1, 1e-4, -1e-4), "log-ratio") != [0] * 5
    assert shades(signs(10.0, 0.1, -0.1, 1e-4, -1e-4), "advantage") == [7, 1, -1, 0, 0]


def test_missing_and_infinite_numbers_break_no_scale():
    assert shades(signs(np.nan, -1.0, np.inf), "advantage") == [0, -7, 7]
    assert shades(signs(np.nan, 0.0), "advantage") == [0, 0]


def test_a_signed_legend_tells_the_sign_without_colour():
    table = signs(-0.5, 2.0)
    text = legend_html(colouring("advantage", table), "advantage", table)
    places = [
        text.index(part)
        for part in ("-2.00 (made rarer)", "wb-down wb-k7", "wb-down wb-k1", " 0 ", "wb-up wb-k1",
                     "wb-up wb-k7", "+2.00 (made likelier)", "dashed below 0, solid above")
    ]  # fmt: skip
    assert places == sorted(places)
    flat = signs(0.0, 0.0)
    text = legend_html(colouring("advantage", flat), "advantage", flat)
    assert "0 everywhere" in text and "wb-up" not in text
    guides = signs(0.8, 1.4, column="guides")
    text = legend_html(colouring("guide", guides), "guide", guides)
    assert "0.60 (reference lowered)" in text and "1.40 (reference raised)" in text
    assert "dashed below 1, solid above" in text
    ratios = signs(0.8, 1.4, column="log_ratios")
    assert "nats" in legend_html(colouring("log-ratio", ratios), "log-ratio", ratios)


def test_one_scale_for_several_groups_passes_over_those_without_the_column():
    one, two, old = signs(1.0), signs(-4.0), signs(9.0).drop(columns="advantages")
    how = colouring("advantage", one, two, old)
    assert (how.low, how.high) == (-4.0, 4.0)
    assert list(how.kinds(one.iloc[0])) == ["wb-up wb-k2"]
    assert colouring("advantage", old) == Colouring()
    assert colouring("advantage") == Colouring()


def test_every_scale_is_a_choice_with_words_for_both_ends():
    assert list(tokens.CHOICES) == ["none", "gradient", *tokens.SCALES]
    for choice, scale in tokens.SCALES.items():
        table = group()
        text = legend_html(colouring(choice, table), choice, table)
        assert f"({scale.low})" in text and f"({scale.high})" in text
        assert text.count("wb-shade ") == (8 if scale.middle is None else 14)


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
