"""Gains of a claim's cells: by hand, and from a toy run."""

from types import SimpleNamespace

import numpy as np
import pytest

from workbench import crossing
from workbench.claims import crossed, load
from workbench.claims import measure as measuring
from workbench.claims.plan import claim_from
from workbench.crossing import CrossGeneration

PAIRS = {  # thinker, answerer -> the two questions' only score
    ("pre", "pre"): [0.0, 0.4], ("pre", "post"): [0.2, 0.4],
    ("post", "pre"): [0.6, 0.4], ("post", "post"): [1.0, 1.0],
    ("(none)", "pre"): [0.0, 0.0], ("(none)", "post"): [0.1, 0.1],
    ("(other question)", "pre"): [0.0, 0.0], ("(other question)", "post"): [0.3, 0.5],
}  # fmt: skip


@pytest.fixture
def found():
    thinkers, answerers = ("pre", "post", "(none)", "(other question)"), ("pre", "post")
    scores = [[[[s] for s in PAIRS[a, b]] for b in answerers] for a in thinkers]
    texts = {pair: [[f"{value}"] for value in values] for pair, values in PAIRS.items()}
    rows = [{"n": 0}, {"n": 1}]
    return CrossGeneration(thinkers, answerers, np.array(scores), rows, texts, {})


def test_gains_by_hand(found):
    metrics = crossed.gains_of(found)
    assert metrics == pytest.approx(
        {
            "thinking_gain": 0.3,  # .5 - .2
            "answer_gain": 0.1,  # .3 - .2
            "interaction": 0.4,  # 1 - .2 - .3 - .1
            "win_post_pre": 0.75,  # one win, one tie
            "other_post": 0.4,
        }
    )
    whole = found.mean("post", "post") - found.mean("pre", "pre")
    parts = (metrics[name] for name in ("thinking_gain", "answer_gain", "interaction"))
    assert sum(parts) == pytest.approx(whole)


def test_the_same_completions_are_scored_again_by_the_task(found):
    state = SimpleNamespace(task=SimpleNamespace(score=lambda row, text: float(text) + row["n"]))
    again = crossed.by_truth(found, state)
    assert again.scores("post", "pre").tolist() == [[0.6], [1.4]]
    assert again.completions is found.completions


@pytest.fixture
def toy_claim(toy_world):
    return claim_from(
        "toy",
        {
            "recipe": {
                "model": toy_world, "quantize": "none", "lora_rank": 2, "steps": 2,
                "prompts_per_step": 2, "group_size": 4, "max_new_tokens": 6, "cross_samples": 2,
                "task_args": {"eval_rows": 8}, "rewards": {"length": 1.0, "correct": 0.0},
            },
            "evaluation": {"prompts": 3, "samples": 4, "ks": [1, 4]},
            "seeds": [0],
            "arms": {"plain": {}},
            "curve_every": 1,
        },
    )  # fmt: skip


def test_what_a_learned_judge_says_is_told_with_the_truth_beside_it(toy_claim, monkeypatch):
    judge = lambda rows, messages, texts: [1.0 + len(text) for text in texts]  # noqa: E731
    for module in (crossed, crossing):
        monkeypatch.setattr(module, "judge_of", lambda recipe, task: judge)
    with measuring.loaded(toy_claim.base_recipe()) as state:
        found = crossed.post_pre_metrics(state, toy_claim, 7)
        cell = crossed.cross_cell(state, toy_claim, 7)
    assert set(found) == {"post_post", "post_pre", "post_post_true", "post_pre_true"}
    assert found["post_post"] > found["post_post_true"]
    gains = {"thinking_gain", "answer_gain", "interaction", "win_post_pre", "other_post"}
    assert set(cell) == gains | {f"{name}_true" for name in gains}
    assert cell["thinking_gain"] == 0 and cell["win_post_pre"] == 0.5  # untrained: no gain


def test_a_claim_with_cross_samples_has_them_in_base_and_cells(toy_claim, tmp_path):
    result = load(measuring.measure(toy_claim, out=tmp_path, say=lambda text: None))
    base = result["base"]["cells"][0]["metrics"]
    cell = result["arms"]["plain"]["cells"][0]
    assert base["post_pre"] == base["post_post"]  # the base is its own initial policy
    assert "thinking_gain" not in base and "post_pre" in cell["curve"][0]
    assert {"post_pre", "thinking_gain", "win_post_pre", "other_post"} <= set(cell["metrics"])
