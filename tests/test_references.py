"""References: what they fit, what they can be compared with, and that a file gives them back."""

import numpy as np
import pytest

from workbench import references
from workbench.phase import ACCURACY, CENTRES, VOTE
from workbench.probe import ProbeTrace
from workbench.references import SETTINGS, Reference, from_traces, load, save, shipped
from workbench.variants import WorkbenchError

VALUES = dict.fromkeys(SETTINGS, 1) | {"model": "m", "task": "t", "task_args": {}}


def traces(seed, level, steps=6):
    """A run whose entropy falls from `level`: four responses to two prompts at each step."""
    rng = np.random.default_rng(seed)
    return [
        ProbeTrace.of(
            step,
            [0, 0, 1, 1],
            [level / (1 + step) + 0.1 * rng.random(5 + k) for k in range(4)],
            [True] * 4,
            ["a", "b" if rng.random() < 0.5 else "a", "c", "c"],
            [1.0, 0.0, float(step > 2), 1.0],
        )
        for step in range(steps)
    ]


@pytest.fixture
def reference():
    return from_traces("two runs", VALUES, {"a": traces(0, 1.0), "b": traces(1, 0.8)})


def test_the_envelope_holds_its_own_runs_after_burn_in_in_every_space(reference):
    for space in (VOTE, ACCURACY, CENTRES):
        envelope = reference.envelope(space)
        for one in reference.paths(space):
            judged = one.steps_N >= envelope.burn_step
            assert envelope.burn_step == 1
            assert (envelope.beyond(one)[judged] == 0).all()
            assert envelope.beyond(one)[~judged].item() > 0
        assert envelope is reference.envelope(space)


def test_the_trivial_predictor_has_the_least_and_greatest_of_the_runs(reference):
    columns = [reference.runs[run] for run in "ab"]
    entropies = [value for c in columns for value in c["entropy"][1:]]
    lengths = [value for c in columns for value in c["length"][1:]]
    assert reference.ranges().low == pytest.approx([min(entropies), np.log(min(lengths))])
    assert reference.ranges().high == pytest.approx([max(entropies), np.log(max(lengths))])


def test_distances_are_means_over_the_responses_to_centres_of_the_pool(reference):
    assert len(reference.centres.series_KL) == 3
    assert (np.diff(reference.centres.levels_K) >= 0).all()
    assert np.shape(reference.near["a"]) == (6, 3)
    found = reference.path("a", reference.runs["a"], CENTRES, reference.near["a"])
    assert found.points_ND.tolist() == reference.near["a"]


def test_a_file_gives_back_the_same_fences_to_six_digits(reference, tmp_path):
    save(reference, tmp_path / "new" / "m-t.json")
    again = load(tmp_path / "new" / "m-t.json")
    assert again.about == "two runs"
    assert again.settings == reference.settings
    assert again.centres.series_KL == pytest.approx(reference.centres.series_KL, rel=1e-5)
    assert again.centres.silhouettes.keys() == reference.centres.silhouettes.keys()
    for space in (VOTE, ACCURACY, CENTRES):
        assert again.envelope(space).volume == pytest.approx(
            reference.envelope(space).volume, rel=1e-3
        )
    assert again.ranges().high == pytest.approx(reference.ranges().high, rel=1e-5)


def test_a_damaged_file_is_one_sentence(tmp_path):
    (tmp_path / "x.json").write_text('{"about": "x"}')
    with pytest.raises(WorkbenchError, match="x.json can't be read .*make it again"):
        load(tmp_path / "x.json")


def test_settings_that_differ_are_named(reference):
    assert reference.misfit(VALUES | {"steps": 9}) == ""
    assert reference.misfit(VALUES | {"task": "u"}) == "task 'u' (reference: 't')"


def test_a_task_s_parameters_at_their_defaults_make_no_difference(reference):
    from workbench.tasks import TASKS

    terms = next(iter(vars(TASKS["arithmetic"])))
    given = {terms: getattr(TASKS["arithmetic"], terms)}
    own = Reference("own", VALUES | {"task": "arithmetic"}, reference.runs)
    assert own.misfit(VALUES | {"task": "arithmetic", "task_args": given}) == ""
    assert "task_args" in own.misfit(VALUES | {"task": "arithmetic", "task_args": {terms: "other"}})


def test_the_shipped_one_is_found_by_its_settings(reference, tmp_path, monkeypatch):
    monkeypatch.setattr(references, "data_path", lambda: tmp_path)
    references._shipped.cache_clear()
    assert shipped(VALUES) is None
    references._shipped.cache_clear()
    save(reference, tmp_path / "references" / "m-t.json")
    assert shipped(VALUES).about == "two runs"
    assert shipped(VALUES | {"probe_prompts": 2}) is None
    references._shipped.cache_clear()


def test_what_is_missing_is_said(reference):
    with pytest.raises(WorkbenchError, match="one run or more"):
        from_traces("none", VALUES, {})
    with pytest.raises(WorkbenchError, match="no distances to entropy centres"):
        reference.path("a", reference.runs["a"], CENTRES)
    with pytest.raises(WorkbenchError, match="space"):
        reference.envelope("hidden states")
    without = Reference("metrics only", VALUES, reference.runs)
    with pytest.raises(WorkbenchError, match="no distances"):
        without.envelope(CENTRES)
