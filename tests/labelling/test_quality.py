"""How good a constraint reward model is: every number by enumeration or by hand, on judges made for it."""

import itertools
import random

import numpy as np
import pytest

from workbench.labelling.pairs import Pair
from workbench.labelling.quality import (
    auc,
    group_quality,
    held_out_quality,
    keeping,
    label_quality,
    mixed_groups,
    soft_groups,
)
from workbench.tasks.demands import HELD_OUT, SOFT, Constraint, draw, keeps
from workbench.tasks.lines import Chain, compose, seeds


class Judge:
    """A verdict for each constraint and answer by a function; it writes down what it is asked."""

    def __init__(self, function):
        self.function, self.asked = function, []

    def verdicts(self, constraints, answers):
        both = list(zip(constraints, answers, strict=True))
        self.asked += both
        return [self.function(constraint, answer) for constraint, answer in both]


# --- pairs --------------------------------------------------------------------------------------------------


def test_auc_is_the_share_of_pairs_in_order_with_ties_half():
    rng = np.random.default_rng(0)
    for _ in range(20):
        scores = rng.integers(0, 4, 12) / 4  # many ties
        truth = rng.random(12) < 0.4
        if 0 < truth.sum() < 12:
            above = [
                1.0 if a > b else 0.5 if a == b else 0.0
                for a, b in itertools.product(scores[truth], scores[~truth])
            ]
            assert auc(scores, truth) == pytest.approx(np.mean(above))
    assert auc(np.array([0.9, 0.1]), np.array([True, False])) == 1.0
    assert auc(np.array([0.9, 0.1]), np.array([False, True])) == 0.0
    assert auc(np.full(6, 0.3), np.array([True, False] * 3)) == 0.5


def pair(chain, kept_truth, missed_truth, kind="mood", constraint="c", kept="k", missed="m"):
    return Pair(chain, kind, constraint, kept, missed, kept_truth, missed_truth)


def test_labels_are_right_as_often_as_p_and_q_say():
    """By counting: of 4 kept labels 3 are true, of 4 missed ones 1 is false."""
    pairs = [pair(0, True, False), pair(0, True, True), pair(1, True, False), pair(1, False, False)]
    assert label_quality(pairs) == {"p": 0.75, "q": 0.25, "label_right": 0.75}
    right = [p.kept_truth for p in pairs] + [not p.missed_truth for p in pairs]
    assert label_quality(pairs)["label_right"] == np.mean(right)


@pytest.mark.parametrize(("p", "q"), [(0.8, 0.2), (0.6, 0.3), (1.0, 0.0), (0.5, 0.5)])
def test_the_best_classifier_of_pseudo_labels(p, q):
    """p / (p + q) on what is kept, (1 - p) / (2 - p - q) on what is not: enumerated, nothing is better."""
    cells = {  # (label, truth) -> its chance, labels balanced
        (1, True): p / 2, (1, False): (1 - p) / 2,
        (0, True): q / 2, (0, False): (1 - q) / 2,
    }  # fmt: skip
    for truth, said in ((True, p / (p + q)), (False, (1 - p) / (2 - p - q))):
        one, zero = cells[1, truth], cells[0, truth]
        assert one / (one + zero) == pytest.approx(said)

        def loss(f, one=one, zero=zero):
            return -(one * np.log(f) + zero * np.log(1 - f))

        clipped = min(max(said, 1e-9), 1 - 1e-9)
        assert all(loss(clipped) <= loss(f) + 1e-6 for f in np.linspace(0.01, 0.99, 99))
    right = cells[1, True] + cells[0, False]
    assert right == pytest.approx((p + 1 - q) / 2)


def real_pairs(count=60):
    """Pairs whose labels are true: a line that keeps the constraint and one that doesn't."""
    rng = random.Random(1)
    pairs = []
    for number in range(count):
        one = draw(rng.choice(["mood", "topic"]), rng)
        kept = compose([one], rng)
        missed = next(
            line
            for line in iter(lambda: compose([], rng), None)
            if not keeps(one.kind, one.arguments, line)
        )
        pairs.append(Pair(number // 3, one.kind, one.text, kept, missed, True, False))
    return pairs


def knowing(pairs, high=0.9, low=0.2):
    """A judge that goes by the words' classes."""
    kinds = {p.constraint: p.kind for p in pairs}

    def verdict(constraint, answer):
        named = constraint.rstrip(".").split()[-1]
        kind = kinds[constraint]
        return high if keeps(kind, {kind: named}, answer) else low

    return Judge(verdict)


def test_a_judge_that_knows_has_a_gap_and_one_that_ignores_the_constraint_has_none():
    pairs = [p for p in real_pairs() if p.constraint.rstrip(".").split()[-1] in _NAMED]
    assert len(pairs) > 30
    found = held_out_quality(knowing(pairs), pairs, [])
    assert found["accuracy"] == 1.0 and found["auc"] == 1.0 and found["swapped_gap"] > 0.3
    blind = held_out_quality(Judge(lambda constraint, answer: len(answer) / 100), pairs, [])
    assert blind["swapped_gap"] == pytest.approx(0, abs=1e-12)
    deaf = held_out_quality(Judge(lambda constraint, answer: 0.7), pairs, [])
    assert (
        deaf["accuracy"] == 0.5 and deaf["auc"] == 0.5 and deaf["swapped_gap"] == pytest.approx(0)
    )
    shown = {key for key in found if not key.endswith("_hard")}
    assert shown == {"accuracy", "swapped_gap", "p", "q", "label_right", "auc"} == set(found)


_NAMED = {"sad", "glad", "angry", "sea", "forest", "city", "kitchen"}


def test_the_swapped_constraint_is_another_chains_and_another():
    pairs = real_pairs(30)
    judge = Judge(lambda constraint, answer: 0.5)
    held_out_quality(judge, pairs, [])
    swapped = judge.asked[2 * len(pairs) : 3 * len(pairs)]
    chains = {(p.chain, p.constraint) for p in pairs}
    for own, (constraint, answer) in zip(pairs, swapped, strict=True):
        assert answer == own.kept and constraint != own.constraint
        assert any(chain != own.chain for chain, text in chains if text == constraint)


def test_accuracy_and_gap_by_hand():
    pairs = [
        pair(0, True, False, constraint="x", kept="a", missed="b"),
        pair(1, True, False, constraint="y", kept="c", missed="d"),
    ]
    table = {
        ("x", "a"): 0.9, ("x", "b"): 0.6, ("y", "c"): 0.5, ("y", "d"): 0.5,
        ("y", "a"): 0.3, ("x", "c"): 0.1,
    }  # fmt: skip
    found = held_out_quality(Judge(lambda c, a: table[c, a]), pairs, [])
    assert found["accuracy"] == 0.5  # one half is not kept: right of b nothing, of d it is
    assert found["swapped_gap"] == pytest.approx((0.9 + 0.5) / 2 - (0.3 + 0.1) / 2)
    assert found["auc"] == pytest.approx((1 + 1 + 0 + 0.5) / 4)


def test_unknown_truth_and_hard_pairs_are_kept_apart():
    judge = Judge(lambda c, a: 0.9 if a == "k" else 0.1)
    unknown = [pair(0, None, None), pair(1, None, None, constraint="d")]
    assert set(held_out_quality(judge, unknown, [])) == {"accuracy", "swapped_gap"}
    hard = [pair(0, True, False, kind="count"), pair(1, False, True, kind="count", constraint="d")]
    found = held_out_quality(judge, [*unknown, *hard], hard)
    assert (found["p_hard"], found["q_hard"], found["auc_hard"]) == (0.5, 0.5, 0.5)
    assert "auc" not in found and "p" not in found
    assert held_out_quality(judge, [], []) == {}
    same = held_out_quality(judge, [pair(0, True, True)], [])
    assert same["q"] == 1.0 and "auc" not in same  # no false one to rank


# --- groups -------------------------------------------------------------------------------------------------

SOME = tuple(Constraint(kind, {}, kind) for kind in ("mood", "topic", "count"))


def test_tau_and_position_by_hand():
    """Three lines that keep 1, 2, 3; total scores decide the ranks."""
    groups = [(Chain("", SOME), ["a", "b", "c"])]

    def judged(*scores):
        table = dict(zip("abc", scores, strict=True))
        found = group_quality(Judge(lambda c, answer: table[answer]), groups)
        return found["tau"], found["position"]

    assert judged(0.1, 0.2, 0.3) == pytest.approx((1.0, 1.0))
    assert judged(0.3, 0.2, 0.1) == pytest.approx((-1.0, 1 / 3))
    assert judged(0.1, 0.3, 0.2) == pytest.approx((1 / 3, 1 / 3))  # 2 pairs in order, 1 not
    # One tie: tau-b is (2 - 0) / sqrt(3 * 2), and neither of the tied has a rank.
    assert judged(0.1, 0.1, 0.3) == pytest.approx((2 / 6**0.5, 1 / 3))
    assert judged(0.2, 0.2, 0.2) == (0.0, 0.0)


def test_each_line_is_scored_by_the_mean_over_its_chains_constraints():
    table = {("mood", "a"): 0.9, ("topic", "a"): 0.0, ("count", "a"): 0.0}  # 0.3 in the mean
    table |= {("mood", "b"): 0.2, ("topic", "b"): 0.2, ("count", "b"): 0.2}  # 0.2
    judge = Judge(lambda c, a: table[c, a])
    found = group_quality(judge, [(Chain("", SOME), ["a", "b"])])
    assert found["tau"] == pytest.approx(-1.0) and found["seconds"] >= 0
    assert sorted(judge.asked) == sorted(table)


def test_with_rules_hard_constraints_are_not_asked_of_the_model():
    some = (
        Constraint("mood", {"mood": "sad"}, "Sound sad."),
        Constraint("count", {"count": 3}, "Use 3 words."),
    )
    groups = [(Chain("", some), ["moss sits", "gray moss sits"])]
    judge = Judge(lambda c, a: 0.5)
    assert group_quality(judge, groups, rules=True)["tau"] == pytest.approx(1.0)
    assert {c for c, _ in judge.asked} == {"Sound sad."} and len(judge.asked) == 2
    assert group_quality(judge, groups)["tau"] == 0.0


@pytest.mark.parametrize("make", [soft_groups, mixed_groups])
def test_groups_hold_lines_that_keep_exactly_one_to_all(make):
    groups = make(8, seed=3)
    assert groups == make(8, seed=3) != make(8, seed=4)
    for chain, lines in groups:
        kept = [sum(keeps(c.kind, c.arguments, line) for c in chain.constraints) for line in lines]
        assert kept == list(range(1, len(chain.constraints) + 1))
        kinds = [c.kind for c in chain.constraints]
        assert chain.seed in seeds("eval") and not set(kinds) & set(HELD_OUT)
        if make is soft_groups:
            assert len(kinds) >= 4 and set(kinds) <= set(SOFT)
        else:
            assert len(kinds) == 5
    assert any(set(SOFT) & {c.kind for c in chain.constraints} for chain, _ in groups)


def test_truth_itself_ranks_every_group_right():
    groups = mixed_groups(6, seed=5)
    known = {c.text: c for chain, _ in groups for c in chain.constraints}

    def truth(text, line):
        return float(keeps(known[text].kind, known[text].arguments, line))

    for rules in (False, True):
        found = group_quality(Judge(truth), groups, rules=rules)
        assert (found["tau"], found["position"]) == pytest.approx((1.0, 1.0))


def test_what_no_line_keeps_is_told():
    never = [Constraint("count", {"count": 40}, ""), Constraint("mood", {"mood": "sad"}, "")]
    assert keeping(never, 2, random.Random(0), tries=3) is None
    line = keeping(never, 1, random.Random(0))
    assert keeps("mood", {"mood": "sad"}, line)
