"""What is read from the scores, against numbers worked by hand."""

import numpy as np
import pytest

from workbench.crossmap import NONE, OTHER
from workbench.crosstable import CrossGeneration
from workbench.gains import Estimate
from workbench.variants import WorkbenchError

# Two questions, two samples; question means of pre: 0.5, 0; of post: 1, 0.5 (answered by pre).
SCORES = np.array(
    [
        [[[0.0, 1.0], [0.0, 0.0]], [[1.0, 1.0], [0.0, 0.0]]],
        [[[1.0, 1.0], [0.0, 1.0]], [[1.0, 1.0], [1.0, 1.0]]],
        [[[0.0, 0.0], [0.0, 0.0]], [[0.0, 1.0], [0.0, 0.0]]],
        [[[0.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 1.0]]],
    ]
)


def table(scores=SCORES):
    thinkers, answerers = ("pre", "post", NONE, OTHER), ("pre", "post")
    texts = {(a, b): [[f"<think>{a}</think>{b}"] * 2] * 2 for a in thinkers for b in answerers}
    return CrossGeneration(thinkers, answerers, scores, [{"n": 0}, {"n": 1}], texts, {})


def test_the_matrix_and_its_cells():
    found = table()
    assert found.matrix().loc["pre"].tolist() == [0.25, 0.5]
    assert found.mean("post", "pre") == found.matrix().loc["post", "pre"] == 0.75
    assert found.mean(NONE, "post") == 0.25
    assert found.interval("post", "post") == (1.0, 1.0)
    np.testing.assert_array_equal(found.scores(OTHER, "post"), [[0, 0], [0, 1]])


def test_gains_and_their_sum():
    found = table()
    assert found.thinking_gain("pre", "post", "pre").value == 0.5
    assert found.thinking_gain("pre", "post", "post").value == 0.5
    assert found.answer_gain("pre", "post", "pre").value == 0.25
    parts = found.decomposition("pre", "post")
    assert parts.thinking.value + parts.answering.value + parts.interaction.value == 0.75
    assert (parts.total.value, parts.interaction.value) == (0.75, 0.0)


def test_win_rates():
    found = table()
    assert found.win_rate(("post", "pre"), ("pre", "pre")).value == pytest.approx(0.75)
    assert found.win_rate(("pre", "pre"), ("pre", "pre")) == Estimate(0.5, 0.5, 0.5)
    seen = []
    judge = lambda row, first, second: seen.append((row["n"], first, second)) or 0.5  # noqa: E731
    assert found.win_rate(("pre", "post"), ("pre", "pre"), judge).value == 0.5
    assert seen == [(n, *pair) for n in (0, 0, 1, 1) for pair in (("post", "pre"), ("pre", "post"))]


def test_an_unknown_name_is_told():
    with pytest.raises(WorkbenchError, match="thinker"):
        table().mean("x", "pre")
    with pytest.raises(WorkbenchError, match="answerer"):
        table().mean("pre", NONE)


def test_the_result_as_text_and_as_a_figure():
    found = table()
    assert "1.000 [1.000, 1.000]" in str(found) and OTHER in str(found)
    assert str(found).startswith("2 questions, 2 samples each")
    figure = found.figure("dark")
    np.testing.assert_array_equal(figure.data[0].z, found.matrix())
    assert figure.data[0].colorbar.title.text == "accuracy"
    assert table(SCORES / 2).figure().data[0].colorbar.title.text == "mean score"
