"""The arrays of the curves, from metrics written by hand."""

import numpy as np
import pandas as pd

from workbench import series


def make_metrics(steps=20, ks=(1, 4, 64), every=10):
    rows = []
    for step in range(steps + 1):
        row = {"step": step}
        if step:
            row |= {"train/entropy": 1 / step, "train/kl": 0.01 * step, "reward/correct": 0.5}
            row |= {"reward/total": 0.25, "rollout/length": 9.0, "groups/zero_signal": 0.125}
        if step % every == 0:
            for k in ks:
                value = 0.25 + 0.01 * step + 0.001 * k
                row |= {f"eval/pass@{k}": value}
                row |= {f"eval/pass@{k}/low": value - 0.1, f"eval/pass@{k}/high": value + 0.1}
        rows.append(row)
    return pd.DataFrame(rows).set_index("step")


def make_events(*rows):
    return pd.DataFrame(
        [{"step": step, "time": 0.0, "kind": "update", "text": text} for step, text in rows],
        columns=["step", "time", "kind", "text"],
    )


def test_pass_at_k_is_drawn_at_the_evaluated_steps_only():
    data = series.trace_data("a", make_metrics(), make_events())
    assert data["pass@4"].x.tolist() == [0, 10, 20]
    np.testing.assert_allclose(data["pass@4"].y, [0.254, 0.354, 0.454], rtol=1e-6)
    assert data["pass@4"].y.dtype == np.float32
    assert data["pass@2"].visible is False and len(data["pass@2"].x) == 0


def test_entropy_starts_at_the_first_trained_step():
    data = series.trace_data("a", make_metrics(), make_events())
    assert data["entropy"].x[0] == 1 and data["entropy"].y[1] == 0.5


def test_the_band_goes_out_along_the_top_and_back_along_the_bottom():
    data = series.trace_data("a", make_metrics(steps=10), make_events())["band@1"]
    assert data.x.tolist() == [0, 10, 10, 0]
    np.testing.assert_allclose(data.y, [0.351, 0.451, 0.251, 0.151], rtol=1e-6)


def test_pass_at_k_against_k_compares_the_base_with_the_latest_evaluation():
    data = series.trace_data("a", make_metrics(), make_events())
    assert data["k/base"].x.tolist() == [1, 4, 64] and data["k/base"].name == "base"
    assert data["k/now"].name == "step 20"
    np.testing.assert_allclose(data["k/now"].y - data["k/base"].y, 0.2, rtol=1e-5)


def test_with_one_evaluation_there_is_no_now():
    data = series.trace_data("a", make_metrics(steps=5), make_events())
    assert data["k/now"].visible is False and data["k/base"].visible is True


def test_over_steps_every_second_power_of_two_is_drawn_and_the_greatest_k():
    data = series.trace_data("a", make_metrics(ks=(1, 2, 4, 8)), make_events())
    visible = {key: data[f"pass@{key}"].visible for key in (1, 2, 4, 8, 16)}
    assert visible == {1: True, 2: False, 4: True, 8: True, 16: False}


def test_the_intervals_are_those_of_the_least_and_the_greatest_k():
    data = series.trace_data("a", make_metrics(ks=(1, 2, 4, 8)), make_events())
    assert [key for key in data if "band" in key and data[key].visible] == ["band@1", "band@8"]


def test_rewards_put_the_total_first_and_keep_their_names():
    data = series.trace_data("a", make_metrics(), make_events())
    assert [data[f"reward/{i}"].name for i in range(3)] == ["total", "correct", None]
    assert data["reward/1"].y[0] == 0.5


def test_events_of_one_step_share_a_mark_and_every_subplot_over_steps_has_it():
    events = make_events((3, "objective: rloo to maxrl"), (3, "beta: 0 to 0.1"), (7, "paused"))
    data = series.trace_data("a", make_metrics(), events)
    mark = data["mark/pass"]
    assert mark.x.tolist() == [3, 3, 3, 7, 7, 7]
    assert np.isnan(mark.y[2]) and mark.y[1] == mark.y[4] > 0.9
    assert mark.text[1] == "step 3: objective: rloo to maxrl<br>beta: 0 to 0.1"
    assert {key for key in data if key.startswith("mark/") and data[key].visible} == {
        f"mark/{key}" for key in ("pass", "reward", "entropy", "kl", "length", "zero", "scale")
    }


def test_hostile_names_and_event_texts_are_escaped():
    data = series.trace_data("<b>a</b>", make_metrics(), make_events((1, "<a href='x'>y</a>")))
    assert data["entropy"].name == "&lt;b&gt;a&lt;/b&gt;"
    assert "<a" not in data["mark/pass"].text[0]


def test_a_beta_that_stays_is_not_drawn_but_a_chosen_alpha_that_stays_is():
    metrics = make_metrics(steps=5).assign(**{"train/beta": 0.1, "train/alpha": 1.0})
    data = series.trace_data("a", metrics, make_events())
    assert data["alpha"].visible and not data["beta"].visible
    assert series.extras([data]) == {"alpha"} and not data["mark/beta"].visible


def make_cross(steps=20, every=10, true=True):
    """Metrics with T_post + A_pre rising from 0.5 by 0.01 a step, the policy's own answers 0.2 above."""
    rows = []
    for step in range(0, steps + 1, every):
        score = 0.5 + 0.01 * step
        row = {"step": step, "eval/post_pre": score, "eval/post_post": score + 0.2}
        row |= {"eval/post_pre/low": score - 0.1, "eval/post_pre/high": score + 0.1}
        row |= {"eval/post_pre_true": 0.4, "eval/post_post_true": 0.3} if true else {}
        rows.append(row)
    return make_metrics(steps).join(pd.DataFrame(rows).set_index("step"))


def test_post_pre_has_its_line_its_companions_and_its_interval():
    data = series.trace_data("a", make_cross(), make_events((3, "separation: joint to start")))
    np.testing.assert_allclose(data["post/post_pre"].y, [0.5, 0.6, 0.7], rtol=1e-6)
    np.testing.assert_allclose(data["post/post_post"].y, [0.7, 0.8, 0.9], rtol=1e-6)
    assert data["post/band"].x.tolist() == [0, 10, 20, 20, 10, 0]
    assert data["post/post_pre_true"].name == "A_pre, true"
    assert series.extras([data]) == {"post"} and data["mark/post"].visible
    plain = series.trace_data("a", make_cross(true=False), make_events())
    assert plain["post/post_pre"].visible and not plain["post/post_pre_true"].visible


def test_malformed_completions_are_drawn_beside_post_pre_and_do_not_ask_for_a_row():
    metrics = make_metrics().assign(**{"rollout/malformed": 0.25})
    alone = series.trace_data("a", metrics, make_events())
    assert not alone["malformed"].visible and series.extras([alone]) == frozenset()
    beside = make_cross().assign(**{"rollout/malformed": 0.25})
    data = series.trace_data("a", beside, make_events())
    assert data["malformed"].visible and series.extras([data]) == {"post", "malformed"}


def make_instructed(kinds, steps=4, **more):
    """Metrics with a verdict for each kind, the i-th at 0.1 i, at as many steps as `kinds` says."""
    columns = {
        f"constraints/kind/{kind}": [0.1 * i if step < count else None for step in range(steps + 1)]
        for i, (kind, count) in enumerate(kinds.items())
    }
    return make_metrics(steps).assign(**columns, **more)


def test_constraints_kept_are_drawn_as_judged_and_by_truth():
    numbers = {"constraints/hard": 0.7, "constraints/soft": 0.6, "eval/hard": 0.5, "eval/soft": 0.4}
    data = series.trace_data("a", make_metrics().assign(**numbers), make_events((3, "paused")))
    found = {
        key: (data[f"kept/{key}"].name, float(data[f"kept/{key}"].y[0])) for key in series.KEPT
    }
    expected = {
        "hard": ("hard", 0.7), "soft": ("soft", 0.6),
        "hard_true": ("hard, true", 0.5), "soft_true": ("soft, true", 0.4),
    }  # fmt: skip
    assert {key: (name, round(value, 6)) for key, (name, value) in found.items()} == expected
    assert series.extras([data]) == {"kept"} and data["mark/kept"].visible
    assert not data["mark/hard"].visible


def test_truth_alone_asks_for_the_row_and_a_run_without_constraints_has_none():
    data = series.trace_data("a", make_metrics().assign(**{"eval/soft": 0.4}), make_events())
    assert series.extras([data]) == {"kept"}
    assert [key for key in series.KEPT if data[f"kept/{key}"].visible] == ["soft_true"]
    plain = series.trace_data("a", make_metrics(), make_events())
    assert series.extras([plain]) == frozenset()


def test_levels_are_the_rewards_of_prompts_with_so_many_constraints():
    numbers = {f"constraints/level/{k}": 0.1 * k for k in (1, 2, 7, 8)}
    data = series.trace_data("a", make_metrics().assign(**numbers), make_events())
    shown = [k for k in series.LEVELS if data[f"level/{k}"].visible]
    assert shown == [1, 2, 7] and series.extras([data]) == {"level"}
    np.testing.assert_allclose([data[f"level/{k}"].y[-1] for k in shown], [0.1, 0.2, 0.7])
    assert [data[f"level/{k}"].name for k in (1, 2)] == ["1 constraint", "2 constraints"]


def test_kinds_of_the_tiny_world_keep_their_slots_whichever_others_are_measured():
    from workbench.tasks import demands

    assert (tuple(demands.HARD), tuple(demands.SOFT)) == (series.HARD_KINDS, series.SOFT_KINDS)
    every = dict.fromkeys(reversed(demands.KINDS), 3)
    for kinds in (every, {"mark": 3, "topic": 3}):
        metrics = make_instructed(kinds)
        data = series.trace_data("a", metrics, make_events())
        assert series.extras([data]) == {"hard", "soft"}
        for side, own in (("hard", series.HARD_KINDS), ("soft", series.SOFT_KINDS)):
            for slot, kind in enumerate(own):
                trace = data[f"{side}/{slot}"]
                assert trace.visible == (kind in kinds)
                if trace.visible:
                    assert trace.name == kind
                    expected = metrics[f"constraints/kind/{kind}"].dropna()
                    np.testing.assert_allclose(trace.y, expected, rtol=1e-6)


def test_of_many_kinds_those_measured_most_often_are_drawn_in_the_order_of_their_names():
    often = {f"keywords:k{i}": 5 for i in (5, 3, 1, 7, 6, 4, 2, 0)}
    metrics = make_instructed({"keywords:rare": 2} | often | {"soft": 4})
    data = series.trace_data("a", metrics, make_events())
    assert [data[f"hard/{i}"].name for i in range(8)] == [f"k{i}" for i in range(8)]
    np.testing.assert_allclose(data["hard/0"].y, [0.8] * 5, rtol=1e-6)  # the ninth of the table
    assert data["soft/0"].name == "soft" and len(data["soft/0"].y) == 4
    assert not data["soft/1"].visible


def test_hard_and_soft_kinds_are_told_by_name_as_the_task_does():
    from workbench.tasks import instructions

    names = [*series.HARD_KINDS, *series.SOFT_KINDS, *instructions.LIGHT, "soft", "tone"]
    names += ["keywords:existence", "punctuation:no_comma"]
    assert [series.is_hard(name) for name in names] == [
        instructions.is_hard(name) for name in names
    ]


def test_names_of_kinds_are_cut_and_inert():
    assert series.kind_label("detectable_format:number_highlighted_sections") == "number high…"
    assert series.kind_label("language:response_language") == "response la…"
    assert series.kind_label("<b>x</b>") == "&lt;b&gt;x&lt;/b&gt;"
