"""The scribe's card: what is planned and kept, counted by hand, and each kind asked for and not yet."""

import json
import random
import shutil
from types import SimpleNamespace

import pytest
import torch

from workbench.models import load_policy
from workbench.tasks import make_task
from workbench.tasks.demands import Constraint, keeps
from workbench.tasks.instructions import constraints_of, row_of, rungs
from workbench.tasks.lines import Chain, compose
from workbench.tiny import scribe_card
from workbench.tiny.scribe_card import kept_by_kind, measure_scribe, write_scribe_card

TASK = make_task("instructions")
ROW = row_of(
    Chain(
        "Write a note.",
        (
            Constraint("mood", {"mood": "sad"}, "Sound sad."),
            Constraint("count", {"count": 4}, "Use 4 words."),
            Constraint("contains", {"word": "moss"}, "Say moss."),
        ),
    ),
    0,
    3,
)


MOST = {"constraints": 2 / 3, "instructions": 0, "well-formed": 1}


@pytest.mark.parametrize(
    ("completion", "cut", "expected"),
    [
        (
            "<think>sad 4 words</think>the gray wave sits.",
            False,
            MOST | {"planned": 2 / 3, "planned and kept": 1},
        ),
        (
            "<think>4 words with moss</think>gray moss sits.",
            False,
            MOST | {"planned": 2 / 3, "planned and kept": 1 / 2},
        ),
        (
            "<think></think>the gray moss sits.",
            False,
            {"constraints": 1, "instructions": 1, "planned": 0, "well-formed": 1},
        ),
        (
            "<think>sad 14 words</think>the gray moss sits.",  # not the note of four words
            True,
            {"constraints": 1, "instructions": 1, "planned": 1 / 3, "planned and kept": 1, "well-formed": 0},
        ),
        (
            "<think>sad the gray moss sits.",
            False,
            {"constraints": 0, "instructions": 0, "planned": 1 / 3, "planned and kept": 0, "well-formed": 0},
        ),
    ],
)  # fmt: skip
def test_one_completion_by_hand(completion, cut, expected):
    assert scribe_card._of_one(TASK, ROW, completion, cut) == pytest.approx(expected)


def test_means_are_over_the_held_out_prompts(monkeypatch):
    """Two prompts, two samples each; one completion plans nothing and stands out of one mean."""
    rows = list(TASK.dataset("eval"))[:2]
    texts = ["<think></think>moss.", "<think></think>the moss sits.", "<think>x</think>", "moss"]
    lengths = torch.tensor([2, 4, 3, 1])
    made = SimpleNamespace(
        completions=texts, truncated_B=torch.tensor([0, 0, 1, 0]).bool(), lengths_B=lengths
    )
    asked = []

    def fake(policy, conversations, *, rows, **settings):
        asked.append((conversations, rows, settings))
        return made

    monkeypatch.setattr(scribe_card, "sample", fake)
    found = measure_scribe(None, prompts=2, samples=2)
    ((conversations, given, settings),) = asked
    assert given == rows and conversations == [TASK.messages(row) for row in rows]
    assert settings["group_size"] == 2 and settings["max_new_tokens"] == 48
    truths = [TASK.truths(rows[b // 2], TASK.answer(text)) for b, text in enumerate(texts)]
    shares = [sum(kept) / len(kept) for kept in truths]
    assert found["constraints"] == pytest.approx(sum(shares) / 4, abs=1e-4)
    assert found["well-formed"] == 0.5 and found["length"] == 2.5 and found["planned"] == 0.0
    assert "planned and kept" not in found


def test_kinds_are_counted_where_they_are_asked_for_and_one_rung_before(monkeypatch):
    """Every rung answers with lines that keep what it asks for, and the counts are made again by hand."""
    rows = make_task("instructions", kinds="all").whole_chains("eval")[:6]
    rng = random.Random(0)
    answers = {
        text: [compose(constraints_of(row)[:rung], rng) or "moss." for _ in range(2)]
        for row in rows
        for rung, text in enumerate(rungs(row))
    }

    def fake(policy, conversations, **settings):
        texts = [answers[said[0]["content"]] for said in conversations]
        return SimpleNamespace(texts_of=lambda p: texts[p])

    monkeypatch.setattr(scribe_card, "sample", fake)
    found = kept_by_kind(None, chains=6, samples=2)
    counts = {}
    for row in rows:
        prompts = rungs(row)
        for k, one in enumerate(constraints_of(row), 1):
            for side, rung in (("p", k), ("q", k - 1)):
                kept = [keeps(one.kind, one.arguments, text) for text in answers[prompts[rung]]]
                counts.setdefault(one.kind, {}).setdefault(side, []).extend(kept)
    assert found == {
        kind: {side: pytest.approx(sum(v) / len(v), abs=1e-4) for side, v in sides.items()}
        for kind, sides in counts.items()
    }
    assert sum(sides["p"] for sides in found.values()) > 0.9 * len(found)
    assert sum(sides["q"] for sides in found.values()) < 0.7 * len(found)


def test_a_card_has_what_was_measured(toy_scribe, tmp_path):
    policy = load_policy(toy_scribe, quantize="none")
    shutil.copytree(toy_scribe, tmp_path, dirs_exist_ok=True)
    write_scribe_card(tmp_path, "scribe", seed=0, steps=5, prompts=3, samples=2)
    figures = json.loads((tmp_path / "measured.json").read_text())
    assert figures["none"] == measure_scribe(policy, 3, 2)
    assert figures["kinds"] == kept_by_kind(policy, 3, 1)
    text = (tmp_path / "README.md").read_text()
    assert "workbench pretrain scribe --seed 0 --steps 5" in text
    assert f"| none | {figures['none']['constraints']:.3f} |" in text
    kind, sides = next(iter(figures["kinds"].items()))
    assert any(
        line.startswith(f"| {kind} | ") and f"{sides['p']:.3f}" in line for line in text.split("\n")
    )
