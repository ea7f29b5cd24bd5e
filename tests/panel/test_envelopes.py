"""References among the panel's own runs, their guards, and distances found by a thread."""

from dataclasses import replace

import numpy as np
import pytest

from workbench.panel import envelopes
from workbench.panel.envelopes import FINISHED, SHIPPED, Envelopes, Offer
from workbench.phase import CENTRES, VOTE, distances
from workbench.references import SETTINGS, Reference
from workbench.remarks import left_at
from workbench.watch import Guard, from_runs, path_of

INSIDE, OUTSIDE = (0.3, 15.0, 0.6), (0.9, 15.0, 0.6)


@pytest.fixture
def held():
    """Envelopes that count how often they have woken the drawer."""
    woken = []
    made = Envelopes(lambda: woken.append(True))
    made.woken = woken
    return made


@pytest.fixture
def box_shipped(monkeypatch, probed):
    """A reference that is shipped for every run."""
    box = probed.box()
    settings = {name: box.recipe.to_dict()[name] for name in SETTINGS}
    reference = Reference("box", settings, {"box": box.probe_columns()})
    monkeypatch.setattr(envelopes, "shipped", lambda _: reference)
    return reference


def test_a_finished_run_is_a_reference_for_another_and_not_for_itself(held, probed):
    good, run = probed.box(), probed([INSIDE])
    assert held.offers(good, [good, run]) == {}
    offer = held.offers(run, [good, run])[FINISHED]
    assert offer.runs == (good,) and list(offer.reference.runs) == ["good"]
    assert held.offers(run, [good, run])[FINISHED] is offer  # so that its envelope is kept
    edges = offer.reference.envelope().scale.undo(offer.reference.envelope().hull.corners_MD)
    np.testing.assert_allclose(edges.min(0), [0.2, np.log(10), 0.5])
    np.testing.assert_allclose(edges.max(0), [0.4, np.log(20), 0.7])


def test_each_reason_against_a_run_is_named(held, probed):
    run = probed([INSIDE])
    others = [
        probed([INSIDE] * 5, "going"),
        probed([INSIDE], "short", "finished"),
        probed([INSIDE] * 5, "long-words", "finished", max_new_tokens=32),
        probed.box("astray"),
    ]
    others[-1]._append_event(4, "warning", "leaving the envelope at step 4", {})
    assert held.offers(run, [*others, run]) == {}
    why = held.why_none(run, [*others, run])
    for part in (
        "going has not finished", "short has too few probes", "astray left an envelope itself",
        "long-words differs in max_new_tokens 64 (reference: 32)",
    ):  # fmt: skip
        assert part in why
    assert "first let one learn from right answers" in held.why_none(run, [run])


def test_a_task_with_its_defaults_spelled_out_is_the_same_task(held, probed, monkeypatch):
    run = probed([INSIDE], task="arithmetic", task_args={"most": 4, "largest": 7})
    good = probed.box(task="arithmetic", task_args={"largest": 7})
    asked = []
    monkeypatch.setattr(envelopes, "shipped", asked.append)
    offer = held.offers(run, [good, run])[FINISHED]
    assert asked[0]["task_args"] == {"largest": 7}
    held.guard(run, offer, "warn")
    assert len(run.listeners) == 1
    other = probed([INSIDE], task="arithmetic")
    assert held.offers(other, [good, other]) == {}


def test_a_shipped_reference_comes_first(held, probed, box_shipped):
    run = probed([INSIDE])
    assert list(held.offers(run, [run])) == [SHIPPED]
    assert list(held.offers(run, [probed.box(), run])) == [SHIPPED, FINISHED]


def test_the_guard_warns_and_pauses_as_asked_for_live(held, probed, box_shipped):
    run = probed([INSIDE, INSIDE])
    offer = held.offers(run, [run])[SHIPPED]
    assert held.guard(run, offer, "warn") == held.guard(run, offer, "warn") == "warn"
    assert len(run.listeners) == 1 and isinstance(run.listeners[0], Guard)
    for _ in range(3):
        run.probe(OUTSIDE)
    assert run.events["kind"].tolist() == ["warning"] and "pause" not in run.calls
    other = probed([INSIDE, INSIDE], "other")
    held.guard(other, offer, "warn")
    held.set_then("pause")
    for _ in range(3):
        other.probe(OUTSIDE)
    assert other.calls == ["pause"] and left_at(other.events) == 8


def test_no_guard_where_its_errors_would_end_the_run(held, probed, box_shipped):
    run = probed([INSIDE])
    short = replace(box_shipped, runs={"a": run.probe_columns()})  # all of it is burn-in
    other = replace(box_shipped, settings=box_shipped.settings | {"task": "other"})
    for reference in (short, other):
        held.guard(run, Offer(reference), "warn")
    assert run.listeners == []


def test_a_guard_given_at_the_start_is_kept(held, probed, box_shipped):
    run = probed([INSIDE])
    own = Guard(then="pause")
    run.listeners.append(own)
    offer = held.offers(run, [run])[SHIPPED]
    assert held.guard(run, offer, "warn") == "pause"
    assert run.listeners == [own] and own.reference is None


def test_another_choice_reaches_the_panels_own_guard(held, probed, box_shipped):
    good, run = probed.box(), probed([INSIDE])
    offers = held.offers(run, [good, run])
    held.guard(run, offers[SHIPPED], "warn")
    held.guard(run, offers[FINISHED], "warn")
    assert [guard.reference for guard in run.listeners] == [offers[FINISHED].reference]


def test_paths_without_centres_need_no_thread(held, probed):
    good, run = probed.box(), probed([INSIDE, OUTSIDE])
    offer = held.offers(run, [good, run])[FINISHED]
    one = held.path(run, offer, VOTE)
    np.testing.assert_array_equal(one.points_ND, path_of(run, offer.reference).points_ND)
    assert held.path(run, None, VOTE) is not None and held.path(probed(), offer, VOTE) is None
    assert held.path(run, offer, CENTRES) is None and held.path(run, None, CENTRES) is None


def test_distances_are_found_once_for_each_probe(monkeypatch, held, probed, wait):
    good, run = probed.box(), probed([INSIDE, OUTSIDE])
    offer = held.offers(run, [good, run])[FINISHED]
    assert held.seek(offer, [good, run])
    wait(lambda: held.woken, 20)
    whole = from_runs(good)
    want = distances(run.probes(), whole.centres)
    np.testing.assert_allclose(held.path(run, offer, CENTRES).points_ND, want)
    np.testing.assert_array_equal(
        held.path(good, offer, CENTRES).points_ND, held.full(offer).near["good"]
    )
    assert not held.seek(offer, [good, run])  # nothing is new
    asked = []
    real = envelopes.phase.distances
    monkeypatch.setattr(
        envelopes.phase, "distances", lambda t, c: asked.append(t[0].step) or real(t, c)
    )
    run.probe(INSIDE)
    assert held.path(run, offer, CENTRES) is None and held.seek(offer, [good, run])
    wait(lambda: len(held.woken) == 2, 20)
    assert asked == [4] and len(held.path(run, offer, CENTRES).steps_N) == 3


def test_what_goes_wrong_in_the_thread_is_kept_as_a_sentence(monkeypatch, held, probed, wait):
    good, run = probed.box(), probed([INSIDE, OUTSIDE])
    offer = held.offers(run, [good, run])[FINISHED]
    monkeypatch.setattr(run, "probes", lambda: 1 / 0)
    held.seek(offer, [run])
    wait(lambda: held.woken, 20)
    assert "ZeroDivisionError" in held.trouble and not held.seek(offer, [run])
