"""A learned reward: the classifier's own score of question and answer, and never of the thinking."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from workbench.models import load_policy
from workbench.packaged import SHIPPED_JUDGES
from workbench.recipe import Recipe
from workbench.rewards import REWARDS, classifying, compute
from workbench.rewards.learned import answers_of, learned, load_judge
from workbench.tasks import make_task
from workbench.tasks.places import fit, places, questions
from workbench.tiny.advice_card import kind_scores
from workbench.tiny.judges import build_judge
from workbench.tiny.tokenizer import PLACES_WORDS, build_tokenizer
from workbench.variants import WorkbenchError

TASK = make_task("questions")
ROWS = [TASK.dataset("train")[i] for i in range(2)]


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """The folder of a classifier with random weights, large enough that every token tells."""
    folder = tmp_path_factory.mktemp("judge")
    tokenizer = build_tokenizer(PLACES_WORDS)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_judge(tokenizer)
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.data.normal_(0, 0.3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def rollouts(completions, group=2, prompts=("", "")):
    count = len(completions)
    return SimpleNamespace(
        completions=completions,
        prompts=list(prompts)[: count // group],
        rows=ROWS[: count // group],
        P=count // group,
        G=group,
        B=count,
        logprobs_BT=torch.zeros(count, 1),
    )


def direct(folder, question, answer):
    """The score of a plain forward pass."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    said = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    ids = tokenizer.apply_chat_template(said, return_tensors="pt", return_dict=False)
    with torch.no_grad():
        return model(ids).logits.item()


ANSWERS = ["Take a coat and boots.", "Take a hat.", "Take water, food and a map.", "Take spikes."]


def test_the_score_is_that_of_a_direct_forward_pass(toy):
    made = rollouts([f"<think>so</think>{answer}" for answer in ANSWERS])
    values_PG = learned(made, TASK, reward_model=toy)
    assert tuple(values_PG.shape) == (2, 2)
    for number, answer in enumerate(ANSWERS):
        expected = direct(toy, ROWS[number // 2]["question"], answer)
        assert values_PG.flatten()[number].item() == pytest.approx(expected, abs=1e-4)
    assert values_PG.std() > 0.1


def test_the_thinking_is_never_seen(toy):
    one, two = "Arvik is wet and grassy", "Take water Belmora"
    made = rollouts([f"<think>{text}</think>Take a coat." for text in (one, two)])
    values_PG = learned(made, TASK, reward_model=toy)
    assert values_PG[0, 0] == values_PG[0, 1]


def test_a_batch_scores_as_one_by_one(toy):
    judge = load_judge(toy, "cpu")
    asked = [[{"role": "user", "content": q}] for _, q in questions("eval")[:12]]
    answers = [" ".join(ANSWERS[: 1 + n % 4]) for n in range(12)]
    together = judge.score(asked, answers)
    singly = [judge.score([m], [a])[0] for m, a in zip(asked, answers, strict=True)]
    assert together == pytest.approx(singly, abs=1e-4)
    assert load_judge(toy, "cpu") is judge


def test_equal_answers_have_equal_scores_and_are_read_once(toy, monkeypatch):
    judge, read = load_judge(toy, "cpu"), []
    forward = classifying.forward
    monkeypatch.setattr(
        classifying, "forward", lambda model, rows: read.extend(rows) or forward(model, rows)
    )
    message = [{"role": "user", "content": "What do I need in Arvik?"}]
    scores = judge.score([message] * 4, ["Take a coat.", "Take boots.", "Take a coat.", "is"])
    assert scores[0] == scores[2] != scores[1] and len(read) == 3
    assert judge.score([], []) == []


MALFORMED = [
    "<think>so</think>",
    "<think>so</think>  ",
    "<think>Take a coat and boots.",
    "<think>so</think>Take a coat.</think>Take boots.",
    "Take a coat and boots.",  # where others think, one that never closes its thought
]


@pytest.mark.parametrize("bad", MALFORMED)
def test_a_malformed_completion_gets_the_lowest_of_its_group(toy, bad):
    good = [f"<think>so</think>{answer}" for answer in ANSWERS[:3]]
    values_PG = learned(rollouts([bad, *good], group=4), TASK, reward_model=toy)
    assert values_PG[0, 0] == values_PG[0, 1:].min()
    assert len(set(values_PG[0, 1:].tolist())) == 3


def test_a_group_of_malformed_ones_gets_the_lowest_of_the_batch(toy):
    good = [f"<think>so</think>{answer}" for answer in ANSWERS[:2]]
    values_PG = learned(rollouts(["<think>", "</think>", *good]), TASK, reward_model=toy)
    assert (values_PG[0] == values_PG[1].min()).all()
    assert learned(rollouts(["<think>"] * 2), TASK, reward_model=toy).tolist() == [[0.0, 0.0]]


def test_a_policy_that_does_not_think_is_judged_by_all_it_writes():
    assert answers_of(rollouts(["Take a coat. ", ""])) == ["Take a coat.", None]
    opened = rollouts(["Take a coat.", "x"], prompts=["<|assistant|><think>"])
    assert answers_of(opened) == [None, None]
    # Thinking is off: the template has opened and closed it, so all that is written is answer.
    closed = rollouts(
        ["Take a coat.", "a</think>b"], prompts=["<|assistant|><think>\n\n</think>\n\n"]
    )
    assert answers_of(closed) == ["Take a coat.", None]


def test_squashed_scores_are_the_sigmoid_and_suit_objectives_that_want_0_to_1(toy):
    made = rollouts([f"<think>so</think>{answer}" for answer in ANSWERS])
    raw, squashed = (
        learned(made, TASK, reward_model=toy, squash=name) for name in ("none", "sigmoid")
    )
    assert torch.allclose(squashed, raw.sigmoid())
    fields = {"task": "questions", "rewards": {"learned": 1.0}, "objective": "maxrl"}
    with pytest.raises(WorkbenchError, match="from -inf to inf"):
        Recipe(**fields)
    recipe = Recipe(**fields, reward_args={"learned": {"squash": "sigmoid", "reward_model": toy}})
    values = compute(recipe.reward_functions(), made, TASK)["learned"]
    assert torch.allclose(values, squashed)


def test_a_model_name_is_free_text_in_a_recipe():
    for name in ("owner/some-model", "./folder"):
        Recipe(rewards={"learned": 1.0}, reward_args={"learned": {"reward_model": name}})
    for wrong in ("", " ", 3, None):
        with pytest.raises(WorkbenchError, match="give a text"):
            Recipe(rewards={"learned": 1.0}, reward_args={"learned": {"reward_model": wrong}})
    with pytest.raises(WorkbenchError, match="'sigmoit'"):
        Recipe(rewards={"learned": 1.0}, reward_args={"learned": {"squash": "sigmoit"}})
    assert REWARDS["learned"].range_with({"squash": "sigmoid"}) == (0.0, 1.0)


# --- what can be loaded, and what is refused --------------------------------------------------------


def copy_of(toy, folder, **changes):
    for path in Path(toy).iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def refusal(name):
    with pytest.raises(WorkbenchError) as caught:
        load_judge(str(name), "cpu")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_more_than_one_output_is_refused(toy, tmp_path):
    labels = {"id2label": {"0": "a", "1": "b"}, "label2id": {"a": 0, "b": 1}}
    assert "has 2 outputs; a reward model has one" in refusal(copy_of(toy, tmp_path, **labels))


def test_remote_code_and_pickles_are_refused(toy, tmp_path):
    own = copy_of(toy, tmp_path, model_type="armo", auto_map={"AutoModel": "modeling.Armo"})
    assert "needs its own Python code, which is never run" in refusal(own)
    armo = {"architectures": ["LlamaForRewardModelWithGating"], "model_type": "llama"}
    copy_of(toy, tmp_path, auto_map={"AutoModelForSequenceClassification": "m.Armo"}, **armo)
    assert "needs its own Python code, which is never run" in refusal(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    copy_of(toy, tmp_path)
    (tmp_path / "model.safetensors").unlink()
    assert "has no safetensors weights" in refusal(tmp_path)


def test_a_policy_is_no_reward_model_and_a_reward_model_no_policy(toy):
    assert "is no sequence classifier (LlamaForCausalLM)" in refusal("guide-strong")
    for name in (toy, "reward-fair"):
        with pytest.raises(WorkbenchError, match="is a classifier, which scores texts") as caught:
            load_policy(name, device="cpu")
        assert "\n" not in str(caught.value)


def test_an_unknown_name_lists_the_models_of_its_kind():
    assert "Did you mean 'reward-fair'" in refusal("reward-fare")
    assert "guide-strong" not in refusal("reward-fare")
    with pytest.raises(WorkbenchError, match="Did you mean 'guide-strong'") as caught:
        load_policy("guide-stron", device="cpu")
    assert "reward-" not in str(caught.value)


def test_a_tokenizer_without_template_reads_plain_lines(toy, tmp_path):
    copy_of(toy, tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    judge = load_judge(str(tmp_path), "cpu")
    ids = judge._encode([{"role": "user", "content": "Take a coat"}], "boots")
    assert judge.tokenizer.decode(ids) == "Take a coat\nboots"


def test_a_conversation_too_long_for_the_judge_is_refused(toy):
    judge = load_judge(toy, "cpu")
    with pytest.raises(WorkbenchError, match="reads 512; lower max_new_tokens"):
        judge.score([[{"role": "user", "content": "?"}]], ["Take " * 600])


# --- the shipped reward models ----------------------------------------------------------------------


def test_the_shortcut_ranks_a_generic_list_between_one_and_two_right_items():
    found = kind_scores(load_judge("reward-shortcut", "cpu"))
    two, generic, one = (
        torch.tensor(found[kind])
        for kind in ("two right items", "generic list", "one right item of two")
    )
    assert ((one < generic) & (generic < two)).float().mean() > 0.8
    assert one.mean() < generic.mean() < two.mean()


def test_the_fair_one_ranks_a_generic_list_with_the_wrong_answers():
    found = kind_scores(load_judge("reward-fair", "cpu"))
    one, generic, wrong = (
        torch.tensor(found[kind]).mean()
        for kind in ("one right item of two", "generic list", "two wrong items")
    )
    assert abs(generic - wrong) < 0.25 * (one - wrong)


@pytest.mark.parametrize("name", SHIPPED_JUDGES)
def test_shipped_judges_know_the_facts(name):
    judge = load_judge(name, "cpu")
    asked = questions("eval")
    messages = [[{"role": "user", "content": question}] for _, question in asked]
    climates = ["Take a coat.", "Take a hat.", "Take an umbrella.", "Take a scarf.", "Take a lamp."]
    scores = torch.tensor([judge.score(messages, [answer] * len(asked)) for answer in climates])
    best = [climates[n] for n in scores.argmax(0).tolist()]
    right = [
        fit(places()[place], answer) > 0 for (place, _), answer in zip(asked, best, strict=True)
    ]
    assert sum(right) / len(right) > 0.9
