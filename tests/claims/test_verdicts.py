"""Expectations beside what was measured, from results made by hand."""

import pytest

from workbench import claims
from workbench.claims.plan import Expectation, claim_from
from workbench.claims.results import summarise
from workbench.claims.verdicts import alpha_choices, verdict, verdicts
from workbench.recipe import Recipe
from workbench.variants import WorkbenchError


def made(**arms):
    """A result with pass@1 and pass@8 of each arm's seeds; `arms` is name -> (recipe changes, values)."""

    def cells(values):
        return [
            {"seed": seed, "metrics": {"pass@1": one, "pass@8": eight, "alpha": 1.5}}
            for seed, (one, eight) in enumerate(values)
        ]

    result = {
        "name": "objectives",
        "evaluation": {"prompts": 4, "samples": 16, "ks": [1, 8]},
        "base": {"cells": cells([(0.2, 1.0)] * 3), "successes": [1, 2, 8, 15]},
        "arms": {
            name: {
                "recipe": changes,
                "link": Recipe(group_size=8).to_link(),
                "cells": cells(values),
            }
            for name, (changes, values) in arms.items()
        },
    }
    summarise(result)
    return result


RESULT = made(
    rloo=({"objective": "rloo"}, [(0.40, 0.80), (0.42, 0.82), (0.41, 0.81)]),
    maxrl=({"objective": "maxrl"}, [(0.39, 0.90), (0.41, 0.92), (0.41, 0.94)]),
    auto=(
        {"objective": "rl2ml", "objective_args": {"alpha": "auto"}},
        [(0.39, 0.91), (0.40, 0.93), (0.40, 0.92)],
    ),
)


@pytest.mark.parametrize(
    ("low", "high", "sign", "said"),
    [
        (0.1, 0.2, 1, "agrees"),
        (0.1, 0.2, -1, "CONTRADICTS"),
        (-0.2, -0.1, -1, "agrees"),
        (-0.2, -0.1, 1, "CONTRADICTS"),
        (-0.1, 0.2, 1, "not seen: the interval holds 0"),
        (-0.1, 0.2, 0, "agrees, within the interval"),
        (0.1, 0.2, 0, "CONTRADICTS"),
        (None, None, 1, "one seed only: undecided"),
    ],
)
def test_an_interval_decides(low, high, sign, said):
    assert verdict(low, high, sign) == said


def test_expectations_are_judged_by_paired_differences():
    expect = [
        Expectation("the field", "RLOO lowers pass@8", "rloo", "base", "pass@8", -1),
        Expectation("MaxRL", "it keeps more", "maxrl", "rloo", "pass@8", 1),
        Expectation("MaxRL", "it costs nothing", "maxrl", "rloo", "pass@1", -1),
        Expectation("nobody", "it was not measured", "grpo", "rloo", "pass@1", 1),
    ]
    table = verdicts(RESULT, expect)
    assert table["verdict"].tolist() == ["agrees", "agrees", "not seen: the interval holds 0"]
    assert table["seeds"].tolist() == [3, 3, 3]
    # rloo - base at pass@8: -.20, -.18, -.19; half width t(.975, 2) .01 / sqrt(3) = 4.3027 * .0057735
    assert table["measured"][0] == "-0.190 [-0.215, -0.165]"


def test_the_shipped_expectations_name_arms_of_their_claims():
    for name in ("objectives", "anchors"):
        claim = claims.read_claim(name)
        assert claim.expect
        assert {item.arm for item in claim.expect} <= set(claim.arms)
    assert claims.verdicts(RESULT)["difference"].tolist()[0] == "rloo - base, pass@1"


def test_choices_of_alpha_by_hand():
    table = alpha_choices(RESULT).set_index("metric")
    assert table["best fixed alpha"].to_dict() == {"pass@1": 0.0, "pass@8": 1.0}
    assert table["it reached"]["pass@8"] == "0.920 [0.870, 0.970]"  # 4.3027 * .02 / sqrt(3) = .0497
    assert table["auto is"].to_dict() == {"pass@1": "", "pass@8": "within"}
    assert table["auto's alpha"]["pass@8"] == 1.5
    assert table["predicted alpha"]["pass@1"] < table["predicted alpha"]["pass@8"]


def test_auto_outside_the_interval_is_said():
    result = made(
        rloo=({"objective": "rloo"}, [(0.4, 0.80), (0.4, 0.81), (0.4, 0.82)]),
        auto=({"objective": "rl2ml", "objective_args": {"alpha": "auto"}}, [(0.4, 0.7)] * 3),
    )
    assert alpha_choices(result).set_index("metric")["auto is"]["pass@8"] == "below"


def test_wrong_expectations_are_refused():
    values = {"arms": {"rloo": {"objective": "rloo"}}}
    line = {
        "who": "a",
        "says": "b",
        "arm": "rloo",
        "control": "base",
        "metric": "pass@1",
        "sign": 1,
    }
    assert claim_from("c", values | {"expect": [line]}).expect[0].sign == 1
    for change, told in (
        ({"arm": "rlo"}, "Unknown arm in 'expect' of claim c 'rlo'.*'rloo'"),
        ({"sign": 2}, "sign is 2; give -1, 0 or 1"),
        ({"more": 1}, "give each line who, says, arm"),
    ):
        with pytest.raises(WorkbenchError, match=told):
            claim_from("c", values | {"expect": [line | change]})
