"""Cross-Generation in a scripted world whose numbers are worked by hand, and with toy models."""

import gc
import types
import weakref

import numpy as np
import pytest
import torch

from workbench import crossing
from workbench.crossing import cross_generation, initial_of, judge_of, other_questions, post_pre
from workbench.crossmap import NONE, OTHER
from workbench.gains import Estimate
from workbench.models import Policy, load_policy
from workbench.recipe import Recipe
from workbench.tasks.arithmetic import Arithmetic
from workbench.tasks.base import after_thinking
from workbench.tokens import Tags
from workbench.variants import WorkbenchError

# ------------------------------------------------------------------ a scripted world


class Numbers:
    """Question n is answered by `right`; `half` is a generic answer that is worth something anywhere."""

    name = "numbers"

    def __init__(self, count=8, knows_truth=True):
        self.count, self.knows_truth = count, knows_truth

    def dataset(self, split):
        assert split == "eval"
        return [{"n": n} for n in range(self.count)]

    def messages(self, row):
        return [{"role": "user", "content": str(row["n"])}]

    def score(self, row, completion):
        return {"right": 1.0, "half": 0.5, "wrong": 0.0}[after_thinking(completion)]


class Scripted(Policy):
    """Thinks `good n` where `thinks(n)`, else `bad n`, unclosed; answers rightly after `good n`."""

    def __init__(self, name, thinks=lambda n: True, otherwise="wrong"):
        super().__init__(None, None, name, torch.device("cpu"), "none")
        self.thinks, self.otherwise = thinks, otherwise


@pytest.fixture
def asked(monkeypatch):
    """The world's rules in place of sampling; the list of what each answerer was given, in order."""
    asked = []

    def think(policy, prompts, *, group_size, **settings):
        numbers = [int(messages[0]["content"]) for messages in prompts]
        texts = [
            f"<think>good {n}</think>" if policy.thinks(n) else f"<think>bad {n}" for n in numbers
        ]
        return types.SimpleNamespace(P=len(texts), texts_of=lambda p: [texts[p]] * group_size)

    def answer_texts(policy, prompts, thoughts, *, per_thought, **settings):
        asked.append((policy.name, list(zip(prompts, thoughts, strict=True)), settings))
        said = [
            "right" if thought == f"good {messages[0]['content']}" else policy.otherwise
            for messages, thought in zip(prompts, thoughts, strict=True)
        ]
        pairs = zip(thoughts, said, strict=True)
        return [[f"<think>{t}</think>{answer}"] * per_thought for t, answer in pairs]

    monkeypatch.setattr(crossing, "think", think)
    monkeypatch.setattr(crossing, "answer_texts", answer_texts)
    return asked


def models():
    """The initial model thinks well of even numbers only; the trained one always, and has a shortcut."""
    return {
        "pre": Scripted("m", thinks=lambda n: n % 2 == 0),
        "post": Scripted("m", otherwise="half"),
    }


def test_scores_and_gains_by_hand(asked):
    found = cross_generation(models(), models(), Numbers(), thoughts=3, answers=2)
    assert found.thinkers == ("pre", "post", NONE, OTHER) and found.answerers == ("pre", "post")
    assert found.scores_ABPS.shape == (4, 2, 8, 6)
    wanted = [[0.5, 0.75], [1.0, 1.0], [0.0, 0.5], [0.0, 0.5]]
    np.testing.assert_array_equal(found.matrix().to_numpy(), wanted)
    assert found.mean("pre", "post") == 0.75
    assert found.interval("post", "pre") == (1.0, 1.0)
    low, high = found.interval("pre", "pre")
    assert 0 < low < 0.5 < high < 1
    assert found.thinking_gain("pre", "post", "pre").value == 0.5
    assert found.thinking_gain("pre", "post", "post").value == 0.25
    assert found.answer_gain("pre", "post", "pre").value == 0.25
    assert found.answer_gain("pre", "post", "post").value == 0.0
    parts = found.decomposition("pre", "post")
    values = [getattr(parts, name).value for name in ("thinking", "answering", "interaction")]
    assert values == [0.5, 0.25, -0.25]
    assert sum(values) == parts.total.value == found.mean("post", "post") - found.mean("pre", "pre")


def test_win_rates_by_hand(asked):
    found = cross_generation(models(), models(), Numbers(), thoughts=2)
    assert found.win_rate(("post", "pre"), ("pre", "pre")).value == 0.75  # half won, half tied
    assert found.win_rate((NONE, "pre"), ("post", "pre")).value == 0.0
    assert found.win_rate(("pre", "post"), ("pre", "post")) == Estimate(0.5, 0.5, 0.5)
    seen = []

    def prefer(row, first, second):
        seen.append((row["n"], first, second))
        return {"right": 1.0}.get(first, 0.5 if first == second else 0.0)  # likes what stands first

    assert found.win_rate(("post", "pre"), ("pre", "pre"), prefer).value == 0.75
    assert seen[:2] == [(0, "right", "right"), (0, "right", "right")]
    assert (1, "right", "wrong") in seen and (1, "wrong", "right") in seen
    assert len(seen) == 2 * 2 * 8  # thoughts are not shown; every pair is asked about twice


def test_all_answerers_get_the_same_thoughts_and_settings(asked):
    cross_generation(models(), models(), Numbers(), thoughts=2, temperature=0.7, seed=3)
    first, second = asked[:4], asked[4:]
    assert [given for _, given, _ in first] == [given for _, given, _ in second]
    assert {name for name, _, _ in asked} == {"m"} and len(asked) == 8
    settings = [settings for _, _, settings in asked]
    assert settings == [{"seed": 3, "max_new_tokens": 64, "temperature": 0.7}] * 8
    (_, pre, _), (_, _, _), (_, none, _), (_, other, _) = first
    assert [thought for _, thought in pre[:4]] == ["good 0", "good 0", "bad 1", "bad 1"]
    assert {thought for _, thought in none} == {""}
    for messages, thought in other:
        assert thought.split()[1] != messages[0]["content"]
    assert sorted(thought for _, thought in other) == sorted(thought for _, thought in pre)


def test_thoughts_that_never_close_are_used_and_counted(asked):
    found = cross_generation(models(), models(), Numbers(), thoughts=3)
    assert found.unclosed == {"pre": 12, "post": 0}
    assert found.completions["pre", "pre"][1] == ["<think>bad 1</think>wrong"] * 3


@pytest.mark.parametrize("count", [2, 3, 17])
def test_other_questions_are_a_derangement_that_the_seed_fixes(count):
    for seed in range(20):
        other = other_questions(count, seed)
        assert sorted(other) == list(range(count))
        assert all(other[n] != n for n in range(count))
        assert other == other_questions(count, seed)
    if count > 3:
        assert other_questions(count, 0) != other_questions(count, 1)


def test_a_question_that_stands_twice_is_asked_once(asked):
    class Twice(Numbers):
        def messages(self, row):
            return super().messages({"n": row["n"] // 2})

        def score(self, row, completion):
            return float(row["n"])

    found = cross_generation(models(), models(), Twice(), prompts=3)
    assert [row["n"] for row in found.rows] == [0, 2, 4]
    assert found.scores("pre", "post").tolist() == [[0.0] * 4, [2.0] * 4, [4.0] * 4]


def test_a_judge_of_one_s_own(asked):
    def judge(rows, messages, completions):
        assert all(
            str(row["n"]) == said[0]["content"] for row, said in zip(rows, messages, strict=True)
        )
        return [
            10.0 * row["n"] + len(after_thinking(c))
            for row, c in zip(rows, completions, strict=True)
        ]

    found = cross_generation(models(), models(), Numbers(2), thoughts=1, judge=judge)
    assert found.scores("pre", "post").tolist() == [[5.0], [14.0]]  # right, half
    for bad in ([1.0], [float("nan")] * 16):
        with pytest.raises(WorkbenchError, match="for 16 completions"):
            cross_generation(models(), models(), Numbers(2), thoughts=1, judge=lambda *a, b=bad: b)


def test_large_evaluations_are_cut_into_lots(asked, monkeypatch):
    whole = cross_generation(models(), models(), Numbers(), thoughts=2)
    asked.clear()
    monkeypatch.setattr(crossing, "ROWS", 6)
    cut = cross_generation(models(), models(), Numbers(), thoughts=2, seed=5)
    np.testing.assert_array_equal(cut.scores_ABPS, whole.scores_ABPS)
    assert [s["seed"] for _, _, s in asked[:3]] == [5, 6, 7]
    assert [len(given) for _, given, _ in asked[:3]] == [6, 6, 4]


def test_models_given_by_name_are_loaded_once_and_let_go(asked, monkeypatch):
    loaded, made = [], []

    def load(name):
        gc.collect()
        loaded.append((name, [policy().name for policy in made if policy()]))
        policy = Scripted(name)
        made.append(weakref.ref(policy))
        return policy

    monkeypatch.setattr(crossing, "load_policy", load)
    found = cross_generation(["a", "b"], {"weak": "b", "strong": "c"}, Numbers())
    assert found.answerers == ("weak", "strong")
    assert loaded == [("a", []), ("b", []), ("c", [])]
    gc.collect()
    assert not any(policy() for policy in made)


def test_what_can_t_be_crossed_is_told(asked):
    one = models()["pre"]
    with pytest.raises(WorkbenchError, match="two or more different questions, and there are 1"):
        cross_generation([one], [one], Numbers(), prompts=1)
    with pytest.raises(WorkbenchError, match="'m' twice"):
        cross_generation([one, models()["post"]], [one], Numbers())
    with pytest.raises(WorkbenchError, match="twice, or it is a control's"):
        cross_generation({NONE: one}, [one], Numbers())
    for nothing in ({}, [], "tiny-weak", one):
        with pytest.raises(WorkbenchError, match="Give answerers as"):
            cross_generation([one], nothing, Numbers())


# ------------------------------------------------------------------ toy models

SIZES = {"prompts": 3, "thoughts": 4, "answers": 2, "max_new_tokens": 12}


def toy(folder):
    return load_policy(folder, quantize="none", lora_rank=4, device="cpu")


def moved(policy, scale=0.3):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _, parameter in policy.trainable():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * scale)
    return policy


def letters(rows, messages, completions):
    return [float(sum(c.isdigit() for c in after_thinking(text))) for text in completions]


def thought_of(text):
    assert text.startswith("<think>")
    return text.removeprefix("<think>").split("</think>")[0]


def test_toy_models_share_thoughts_and_the_seed_repeats_them(toy_world):
    pair = {"start": toy(toy_world), "moved": moved(toy(toy_world))}
    found = cross_generation(pair, pair, "arithmetic", judge=letters, **SIZES)
    for thinker in found.thinkers:
        one, two = (found.completions[thinker, b] for b in found.answerers)
        assert one != two
        for ours, theirs in zip(one, two, strict=True):
            assert len(ours) == 8
            thoughts = [thought_of(text) for text in ours]
            assert thoughts == [thought_of(text) for text in theirs]
            assert thoughts[0::2] == thoughts[1::2]  # two answers to each
    assert found.completions["start", "start"] != found.completions["moved", "start"]
    again = cross_generation(pair, pair, "arithmetic", judge=letters, **SIZES)
    assert again.completions == found.completions and again.unclosed == found.unclosed
    other = cross_generation(pair, pair, "arithmetic", judge=letters, seed=1, **SIZES)
    assert other.completions != found.completions


def test_the_initial_model_is_the_policy_with_its_adapter_off(toy_world):
    start, trained = toy(toy_world), moved(toy(toy_world))
    before = trained.state()
    views = {"initial": initial_of(trained), "trained": trained}
    found = cross_generation(views, views, "arithmetic", judge=letters, **SIZES)
    assert all(torch.equal(tensor, before[name]) for name, tensor in trained.state().items())
    assert initial_of(trained).name == trained.name
    loaded = {"initial": start, "trained": trained}
    wanted = cross_generation(loaded, loaded, "arithmetic", judge=letters, **SIZES)
    assert found.completions == wanted.completions


def test_what_is_put_before_an_answerer_follows_its_own_template(toy_world):
    one, two = toy(toy_world), toy(toy_world)
    two.tokenizer.chat_template = (
        "{% for m in messages %}{{ m['content'] }}\n{% endfor %}<|assistant|><think>"
    )
    found = cross_generation(
        {"one": one}, {"one": one, "two": two}, "arithmetic", judge=letters, **SIZES
    )
    ours, theirs = found.completions["one", "one"], found.completions["one", "two"]
    assert ours != theirs
    for a, b in zip(ours, theirs, strict=True):
        assert [thought_of(text) for text in a] == [thought_of(text) for text in b]


def test_models_without_a_token_for_the_tag_are_crossed_by_their_text(toy_world):
    """`+` alone closes the thoughts: known as a token, then as text, which it is in no other token."""
    found, shown = [], []

    def judge(rows, messages, completions):
        shown.append(list(completions))
        return letters(rows, messages, completions)

    for by_text in (False, True):
        policy = moved(toy(toy_world), 0.1)
        policy.tags = Tags("<think>", "+")
        if by_text:
            policy.thought_end_id = lambda: None
        pair = {"initial": initial_of(policy), "trained": policy}
        found.append(cross_generation(pair, pair, "arithmetic", judge=letters, **SIZES))
        post_pre(policy, Arithmetic(), rows_of(), samples=8, max_new_tokens=24, judge=judge)
    assert found[0].completions == found[1].completions
    assert found[0].unclosed == found[1].unclosed and found[0].unclosed["trained"] < 12
    assert shown[0] == shown[1]
    own, initial = shown[1][:24], shown[1][24:]
    assert own != initial
    assert [t.split("</think>")[0] for t in own] == [t.split("</think>")[0] for t in initial]


# ------------------------------------------------------------------ T_post + A_pre while training


def rows_of(count=3):
    held_out = Arithmetic().dataset("eval")
    return [held_out[n] for n in range(count)]


def test_before_training_both_answer_alike(toy_world):
    found = post_pre(
        toy(toy_world),
        Arithmetic(),
        rows_of(),
        samples=4,
        max_new_tokens=12,
        judge=letters,
    )
    assert found["eval/post_post"] == found["eval/post_pre"]
    assert set(found) == {
        *(f"eval/post_{who}{end}" for who in ("post", "pre") for end in ("", "/low", "/high")),
        "eval/post_post_true", "eval/post_pre_true",
    }  # fmt: skip


def test_the_same_thoughts_are_answered_twice_and_judged(toy_world):
    """The second half is the initial policy's: what it says equals what an untrained copy says."""
    seen = {}

    def judge(rows, messages, completions):
        seen.update(rows=rows, messages=messages, completions=completions)
        return letters(rows, messages, completions)

    rows, task = rows_of(), Arithmetic()
    sizes = {"samples": 4, "max_new_tokens": 24, "seed": 2}
    found = post_pre(moved(toy(toy_world), 0.1), task, rows, judge=judge, **sizes)
    own, initial = seen["completions"][:12], seen["completions"][12:]
    assert [text.split("</think>")[0] for text in own] == [
        text.split("</think>")[0] for text in initial
    ]
    assert own != initial
    assert seen["rows"] == [row for row in rows for _ in range(4)] * 2
    assert seen["messages"][4] == task.messages(rows[1])
    assert found["eval/post_post"] == pytest.approx(np.mean(letters(0, 0, own)))
    assert found["eval/post_pre"] == pytest.approx(np.mean(letters(0, 0, initial)))
    assert found["eval/post_pre/low"] <= found["eval/post_pre"] <= found["eval/post_pre/high"]
    truth = [
        task.score(row, text) for row, text in zip(seen["rows"], seen["completions"], strict=True)
    ]
    assert found["eval/post_post_true"] == np.mean(truth[:12])


def test_without_a_judge_the_task_scores_and_says_so_once(toy_world, monkeypatch):
    monkeypatch.setattr(Arithmetic, "score", lambda self, row, text: float(len(text)))
    found = post_pre(toy(toy_world), Arithmetic(), rows_of(), samples=2, max_new_tokens=6)
    assert not [name for name in found if name.endswith("_true")]
    assert found["eval/post_post"] > 0


def test_lots_have_seeds_of_their_own(toy_world, monkeypatch):
    policy, task = toy(toy_world), Arithmetic()
    sizes = {"samples": 4, "max_new_tokens": 12, "judge": letters}
    monkeypatch.setattr(crossing, "ROWS", 4)
    cut = post_pre(policy, task, rows_of(2), seed=7, **sizes)
    parts = [post_pre(policy, task, [row], seed=7 + n, **sizes) for n, row in enumerate(rows_of(2))]
    mean = np.mean([part["eval/post_post"] for part in parts])
    assert cut["eval/post_post"] == pytest.approx(mean)


# ------------------------------------------------------------------ judges


@pytest.fixture
def learned(monkeypatch):
    """A reward `learned` whose judge gives an answer its length; the list of what it was shown."""
    shown = []

    def load_judge(name, device):
        def score(conversations, answers):
            shown.append((name, device, list(conversations), list(answers)))
            return [float(len(answer)) for answer in answers]

        return types.SimpleNamespace(score=score)

    monkeypatch.setattr(crossing, "load_judge", load_judge)
    return shown


QUESTIONS = [[{"role": "user", "content": text}] for text in "aabbc"]
WRITTEN = [
    "<think>x</think>four",
    "<think>x</think></think>two",
    "<think>y</think>six",
    "no",
    "</think> ",
]


def test_a_learned_reward_judges_answers_without_their_thinking(learned):
    recipe = Recipe(
        rewards={"learned": 0.5}, reward_args={"learned": {"reward_model": "x"}}, device="cpu"
    )
    judge = judge_of(recipe, Numbers())
    assert judge([{}] * 5, QUESTIONS, WRITTEN) == [2.0, 2.0, 1.5, 1.5, 1.5]
    ((name, device, conversations, answers),) = learned
    assert (name, device, answers) == ("x", "cpu", ["four", "six"])
    assert conversations == [QUESTIONS[0], QUESTIONS[2]]
    assert judge([{}], QUESTIONS[:1], ["never closed"]) == [0.0]


def test_a_squashed_reward_is_judged_squashed(learned):
    recipe = Recipe(
        rewards={"learned": 2.0}, reward_args={"learned": {"squash": "sigmoid"}}, device="cpu"
    )
    (value,) = judge_of(recipe, Numbers())([{}], QUESTIONS[:1], WRITTEN[:1])
    assert value == pytest.approx(2 / (1 + np.exp(-4)))


def test_where_nothing_learned_is_trained_on_the_task_judges(learned):
    assert judge_of(Recipe(), Numbers()) is None
    assert judge_of(Recipe(rewards={"correct": 1.0, "learned": 0.0}), Numbers()) is None
    with pytest.raises(WorkbenchError, match="so cross_samples needs a judge"):
        judge_of(Recipe(), Numbers(knows_truth=False))


def test_an_open_question_has_no_true_score(toy_world):
    class Open(Arithmetic):
        knows_truth = False

        def score(self, row, completion):
            raise AssertionError("never asked")

    found = post_pre(toy(toy_world), Open(), rows_of(), samples=2, max_new_tokens=6, judge=letters)
    assert not [name for name in found if name.endswith("_true")]


def test_it_is_found_where_evaluations_are():
    from workbench import evaluation

    assert evaluation.cross_generation is cross_generation
