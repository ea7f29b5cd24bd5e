"""Thoughts and answers drawn apart: exact distributions, what is recorded, what is kept."""

import dataclasses

import pytest
import torch

from workbench.continuation import answer, answer_texts, think, think_texts
from workbench.decoding import LOOK
from workbench.models import load_policy
from workbench.reading import read
from workbench.rollout import SERIES, sample
from workbench.sampling import filter_logits
from workbench.tokens import Tags
from workbench.variants import WorkbenchError


def ask(*texts):
    return [[{"role": "user", "content": text}] for text in texts]


PROMPTS = ask("Make 24 from 3 8", "Compute 1", "Compute 12 + 3 * 4", "Make 7")


def likely_ends(policy, close=1, end=4):
    """Let two of the tokens that the toy model draws often be `</think>` and the end token."""
    drawn = sample(policy, PROMPTS, group_size=200, max_new_tokens=6, temperature=1.5, seed=9)
    common = torch.bincount(drawn.completion_ids_BT[drawn.mask_BT]).argsort(descending=True)
    policy.tokenizer.eos_token_id = int(common[end])
    policy.thought_end_id = lambda: int(common[close])
    policy.stop_ids = lambda: [int(common[end])]
    return int(common[close]), int(common[end])


def both(policy, *, per_thought=1, initial=False, tokens=12, group_size=6, seed=3, **settings):
    thoughts = think(
        policy, PROMPTS, group_size=group_size, max_new_tokens=tokens, seed=seed, **settings
    )
    whole = answer(
        policy, thoughts, per_thought=per_thought, initial=initial, seed=seed, **settings
    )
    return thoughts, whole


def ids_of(rollouts, b):
    return rollouts.completion_ids_BT[b][rollouts.mask_BT[b]].tolist()


def chance_of_each(policy, prompt, settings, limit, ends):
    """Token ids of every possible completion -> its exact probability."""
    model = policy.sampler()
    found, open_ones = {}, {(): 1.0}
    while open_ones:
        longer = {}
        for begun, chance in open_ones.items():
            ids = torch.cat((prompt, torch.tensor([begun], dtype=torch.long)), 1)
            p = filter_logits(model(ids).logits[:, -1], **settings).softmax(-1)[0]
            for token in p.nonzero().flatten().tolist():
                whole = (*begun, token)
                over = token in ends or len(whole) == limit
                (found if over else longer)[whole] = chance * float(p[token])
        open_ones = longer
    return found


@torch.no_grad()
def test_one_answer_to_each_thought_has_the_exact_distribution_of_sample(policy_of):
    policy = policy_of()
    settings = {"top_k": 3, "temperature": 2.0}
    first = sample(policy, PROMPTS[:1], group_size=50, max_new_tokens=1, **settings)
    tokens = first.completion_ids_BT.unique().tolist()
    policy.thought_end_id = lambda: tokens[0]  # the first token of a completion often is this one
    policy.stop_ids = lambda: [tokens[1]]
    expected = chance_of_each(policy, first.prompt_ids_PL, settings, 3, policy.stop_ids())
    thoughts = think(policy, PROMPTS[:1], group_size=4000, max_new_tokens=3, seed=4, **settings)
    whole = answer(
        policy, thoughts, seed=4, **settings
    )  # the same seed: other numbers all the same
    counts = dict.fromkeys(expected, 0)
    for b in range(whole.B):
        counts[tuple(ids_of(whole, b))] += 1  # a completion of probability 0 is a KeyError
    assert sum(len(key) > 1 and tokens[0] in key[:-1] for key in expected) >= 4  # answers are drawn
    cells = len(expected)
    chi_square = sum((counts[key] - 4000 * p) ** 2 / (4000 * p) for key, p in expected.items())
    assert cells > 12 and min(expected.values()) * 4000 > 2
    assert chi_square < cells + 4 * (2 * cells) ** 0.5  # mean + 4 standard deviations


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2", "gemma3_text"])
@pytest.mark.parametrize("per_thought", [1, 3])
def test_what_is_recorded_is_what_the_whole_completion_reads(policy_of, family, per_thought):
    policy = policy_of(family)
    close, _ = likely_ends(policy)
    _, whole = both(policy, per_thought=per_thought, temperature=1.5, group_size=12)
    assert len(set(whole.prompt_mask_PL.sum(1).tolist())) > 1  # padding is put to the test
    assert len(whole.completions) == 48 * per_thought
    assert len(whole.texts_of(3)) == 12 * per_thought
    answered = [b for b in range(whole.B) if ids_of(whole, b)[:-1].count(close)]
    assert len(answered) > whole.B / 16
    with torch.no_grad():
        logprobs_BT, entropies_BT = read(policy, whole).logprobs_entropies()
    assert torch.allclose(logprobs_BT, whole.logprobs_BT, atol=1e-4)
    assert torch.allclose(entropies_BT, whole.entropies_BT, atol=1e-4)
    assert torch.equal(whole.sampled_BT, whole.mask_BT)
    for name in SERIES:  # 0 where masked, and measured elsewhere
        values_BT = getattr(whole, name)
        assert not values_BT[~whole.mask_BT].any() and values_BT[whole.mask_BT].any(), name


def test_thoughts_are_repeated_token_for_token_with_their_statistics(policy_of):
    policy = policy_of()
    close, _ = likely_ends(policy)
    thoughts, whole = both(policy, per_thought=3, temperature=1.5)
    several = 0
    for b in range(whole.B):
        thought = ids_of(thoughts, b // 3)
        assert ids_of(whole, b)[: len(thought)] == thought
        for name in SERIES:
            ours = getattr(whole, name)[b, : len(thought)]
            assert torch.equal(ours, getattr(thoughts, name)[b // 3, : len(thought)])
        if thought[-1] != close or len(thought) == 12:
            assert ids_of(whole, b) == thought
        else:
            assert len(ids_of(whole, b)) > len(thought)
            several += ids_of(whole, b) != ids_of(whole, 3 * (b // 3))
    assert several > 5  # the answers to a thought are drawn, not copied
    assert whole.completions == policy.decode([ids_of(whole, b) for b in range(whole.B)])


def test_rows_that_end_early_or_never_close_are_kept_and_marked(policy_of):
    policy = policy_of()
    close, end = likely_ends(policy)
    thoughts, whole = both(policy, temperature=3.0, tokens=6, group_size=100)
    kinds = set()
    for b in range(whole.B):
        thought, ids = ids_of(thoughts, b), ids_of(whole, b)
        cut = len(ids) == 6 and ids[-1] != end
        assert bool(whole.truncated_B[b]) == cut and len(ids) <= 6
        assert bool(thoughts.truncated_B[b]) == (thought[-1] not in (close, end))
        assert close not in thought[:-1] and end not in thought[:-1] and end not in ids[:-1]
        closed = thought[-1] == close
        kinds.add((closed, len(thought) == 6, cut))
    # An answer that ends; one that is cut; no room for one; an end token instead; never closed.
    assert {
        (True, False, False),
        (True, False, True),
        (True, True, True),
        (False, False, False),
        (False, True, True),
    } <= kinds
    assert whole.max_new_tokens == 6 and whole.T <= 6


def test_the_initial_model_answers_and_the_policy_thinks(policy_of):
    policy = policy_of()
    likely_ends(policy)
    before = sample(policy, PROMPTS, group_size=2, max_new_tokens=6, seed=1)
    thoughts, whole = both(policy, per_thought=2, initial=True, temperature=1.5)
    thinking_BT = torch.arange(whole.T) < thoughts.lengths_B.repeat_interleave(2)[:, None]
    answering_BT = whole.mask_BT & ~thinking_BT
    assert answering_BT.sum() > 20
    assert torch.equal(whole.sampled_BT, whole.mask_BT & thinking_BT)
    with torch.no_grad():
        mine, my_entropies = read(policy, whole).logprobs_entropies()
        with policy.reference():
            base, base_entropies = read(policy, whole).logprobs_entropies()
    where_answer, where_thought = answering_BT, thinking_BT & whole.mask_BT
    assert torch.allclose(whole.logprobs_BT[where_answer], base[where_answer], atol=1e-4)
    assert torch.allclose(whole.entropies_BT[where_answer], base_entropies[where_answer], atol=1e-4)
    assert torch.allclose(whole.logprobs_BT[where_thought], mine[where_thought], atol=1e-4)
    assert torch.allclose(whole.entropies_BT[where_thought], my_entropies[where_thought], atol=1e-4)
    assert (mine - base)[where_answer].abs().max() > 0.1  # else the two could not be told apart
    again = sample(policy, PROMPTS, group_size=2, max_new_tokens=6, seed=1)
    assert torch.equal(before.logprobs_BT, again.logprobs_BT)  # the policy holds its adapter again


def test_the_same_thoughts_may_be_answered_by_both_with_the_same_noise(policy_of):
    """Where the two models agree their answers do: comparisons of answerers lose that noise."""
    policy = policy_of()
    likely_ends(policy)
    with torch.no_grad():
        for _, parameter in policy.trainable():
            parameter.mul_(1e-4)
    policy.refresh_sampler()
    thoughts, whole = both(policy, per_thought=2, temperature=1.5)
    other = answer(policy, thoughts, per_thought=2, initial=True, temperature=1.5, seed=3)
    assert whole.completions == other.completions


def test_a_generator_is_drawn_on_and_a_seed_repeats(policy_of):
    policy = policy_of()
    likely_ends(policy)
    _, whole = both(policy, temperature=1.5)
    _, again = both(policy, temperature=1.5)
    assert torch.equal(whole.logprobs_BT, again.logprobs_BT)
    assert whole.seed == 3
    source = torch.Generator().manual_seed(3)
    thoughts = think(policy, PROMPTS, group_size=2, max_new_tokens=9, seed=source)
    first, second = (answer(policy, thoughts, seed=source) for _ in range(2))
    assert first.completions != second.completions


def test_completions_can_be_chosen_as_those_of_sample(policy_of):
    policy = policy_of()
    likely_ends(policy)
    _, whole = both(policy, per_thought=2, initial=True, temperature=1.5)
    part = whole.select([7, 30])
    assert part.completions == [whole.completions[7], whole.completions[30]]
    assert torch.equal(part.sampled_BT, whole.sampled_BT[[7, 30]])
    assert part.prompts == [whole.prompts[0], whole.prompts[2]]
    half = whole.first(2)  # both answers to each prompt's first thought
    assert half.texts_of(3) == whole.texts_of(3)[:2] and half.sampled_BT.shape[0] == 8


def test_no_thought_closes(policy_of):
    policy = policy_of()
    policy.thought_end_id = lambda: len(policy.tokenizer) - 1
    thoughts, whole = both(policy, per_thought=2, tokens=1)
    assert whole.completion_ids_BT.tolist() == [
        ids for ids in thoughts.completion_ids_BT.tolist() for _ in range(2)
    ]


# ------------------------------------------------------------------ a closing tag of several tokens


def signs(policy):
    """The signs that the toy model draws, the likeliest first: each stands in no other token's text."""
    drawn = sample(policy, PROMPTS, group_size=200, max_new_tokens=6, temperature=1.5, seed=9)
    common = torch.bincount(drawn.completion_ids_BT[drawn.mask_BT]).argsort(descending=True)
    texts = [policy.tokenizer.decode([number]) for number in common.tolist()]
    known = policy.tokenizer.get_vocab()
    return [
        (int(number), text)
        for number, text in zip(common, texts, strict=True)
        if len(text) == 1 and sum(text in token for token in known) == 1
    ]


@pytest.mark.parametrize("initial", [False, True])
def test_by_text_thought_and_answer_are_those_of_the_token_to_the_bit(policy_of, initial):
    """A tag of one character, which a token holds alone: once known by its number, once by its text."""
    found = []
    for by_text in (False, True):
        policy = policy_of()
        number, text = signs(policy)[0]
        policy.thought_end_id = lambda known=(None if by_text else number): known
        if by_text:
            policy.tags = Tags("<think>", text)
        found.append(both(policy, per_thought=3, initial=initial, temperature=1.5, group_size=12))
        closed = found[-1][0].closing_BT.sum(1)
        assert closed.max() == 1 and closed.sum() > 5
    for one, two in zip(*found, strict=True):
        for field in dataclasses.fields(one):
            if field.name.endswith(("_BT", "_B")):
                assert torch.equal(getattr(one, field.name), getattr(two, field.name)), field.name


def likely_pair(policy, prompts, **settings):
    """Have the likeliest two tokens in a row be the closing tag, known by its text alone; the two."""
    drawn = sample(policy, prompts, seed=2, group_size=200, **settings)
    ids_BT, special = drawn.completion_ids_BT, torch.tensor(policy.tokenizer.all_special_ids)
    pairs_N2 = torch.stack((ids_BT[:, :-1], ids_BT[:, 1:]), -1).flatten(0, 1)
    fine_N = ~torch.isin(pairs_N2, special).any(-1) & (pairs_N2[:, 0] != pairs_N2[:, 1])
    kinds_M2, counts_M = pairs_N2[fine_N].unique(dim=0, return_counts=True)
    pair = kinds_M2[counts_M.argmax()].tolist()
    policy.tags = Tags("<think>", policy.tokenizer.decode(pair))
    assert policy.thought_end_id() is None
    return pair


def test_a_thought_is_the_sampled_completion_up_to_where_the_tag_is_complete(policy_of):
    policy = policy_of()
    likely_pair(policy, PROMPTS, max_new_tokens=12)
    settings = {"group_size": 60, "max_new_tokens": LOOK + 6, "seed": 5}
    whole, thoughts = sample(policy, PROMPTS, **settings), think(policy, PROMPTS, **settings)
    closed = 0
    for b, ids in enumerate(ids_of(whole, b) for b in range(whole.B)):
        begun = policy.tokenizer.batch_decode([ids[: n + 1] for n in range(len(ids))])
        at = next((n for n, text in enumerate(begun) if policy.tags.close in text), None)
        kept = len(ids) if at is None else at + 1
        assert ids_of(thoughts, b) == ids[:kept]
        assert bool(thoughts.truncated_B[b]) == (at is None and bool(whole.truncated_B[b]))
        assert thoughts.closing_BT[b].nonzero().flatten().tolist() == [at] * (at is not None)
        for name in SERIES:
            ours, theirs = (getattr(drawn, name)[b, :kept] for drawn in (thoughts, whole))
            assert torch.allclose(ours, theirs, atol=1e-5)
            assert not getattr(thoughts, name)[b, kept:].any()
        closed += at is not None and kept < len(ids)
    assert closed > 5


@torch.no_grad()
def test_answers_to_thoughts_cut_by_text_keep_the_exact_distribution(policy_of):
    policy = policy_of()
    settings = {"top_k": 3, "temperature": 2.0}
    pair = likely_pair(policy, PROMPTS[:1], max_new_tokens=2, **settings)
    first = sample(policy, PROMPTS[:1], group_size=50, max_new_tokens=1, **settings)
    stop = next(token for token in first.completion_ids_BT.unique().tolist() if token not in pair)
    policy.stop_ids = lambda: [stop]
    expected = chance_of_each(policy, first.prompt_ids_PL, settings, 4, policy.stop_ids())
    thoughts = think(policy, PROMPTS[:1], group_size=6000, max_new_tokens=4, seed=4, **settings)
    whole = answer(policy, thoughts, seed=4, **settings)
    counts = dict.fromkeys(expected, 0)
    for b in range(whole.B):
        counts[tuple(ids_of(whole, b))] += 1  # a completion of probability 0 is a KeyError
    answered_B = whole.lengths_B > thoughts.lengths_B
    assert torch.equal(answered_B, thoughts.closing_BT.any(1) & (thoughts.lengths_B < 4))
    assert answered_B.sum() > 100
    chi_square = sum((counts[key] - 6000 * p) ** 2 / (6000 * p) for key, p in expected.items())
    cells = len(expected)
    assert cells > 20 and min(expected.values()) * 6000 > 4
    assert chi_square < cells + 4 * (2 * cells) ** 0.5  # mean + 4 standard deviations


@pytest.mark.parametrize("tokens", [12, LOOK + 6])
def test_a_stop_text_ends_thoughts_and_answers(policy_of, tokens):
    """The same draws with and without it: it cuts them, and what it ended is not truncated."""
    found = []
    for stopping in (False, True):
        policy = policy_of()
        (number, _), (_, stop), *_ = signs(policy)
        policy.thought_end_id = lambda known=number: known
        policy.stop = (stop,) if stopping else ()
        found.append(both(policy, per_thought=2, tokens=tokens, temperature=1.5, group_size=20))
    (_, free), (thoughts, cut) = found
    kinds = set()
    for b in range(free.B):
        ids = ids_of(free, b)
        texts = policy.tokenizer.batch_decode([[token] for token in ids])
        at = next((n for n, text in enumerate(texts) if text == stop), None)
        assert ids_of(cut, b) == (ids if at is None else ids[: at + 1])
        assert bool(cut.truncated_B[b]) == (at is None and bool(free.truncated_B[b]))
        kinds.add((at is not None, number in ids_of(thoughts, b // 2)))
    assert len(kinds) == 4  # by whether it ended, in thought or answer
    given = policy.decode([ids_of(cut, b) for b in range(cut.B)])
    assert cut.completions == given
    policy.stop = ("+",)
    texts = answer_texts(policy, PROMPTS, ["1"] * 4, per_thought=9, max_new_tokens=12, seed=0)
    said = [text.removeprefix("<think>1</think>") for several in texts for text in several]
    assert all("+" not in text[:-1] for text in said) and any(text[-1:] == "+" for text in said)


def test_a_given_thought_is_closed_by_the_spelled_tag(spelling_world):
    policy = load_policy(spelling_world(), quantize="none", lora_rank=4, device="cpu")
    thoughts = ["3*8=24", "", "1<", "12+3 7"]
    made = answer_texts(policy, PROMPTS, thoughts, max_new_tokens=7, temperature=0, seed=1)
    for prompt, thought, texts in zip(policy.render(PROMPTS), thoughts, made, strict=True):
        wanted = greedy(policy, f"{prompt}<think>{thought}</think>", 7)
        assert texts == [f"<think>{thought}</think>{wanted}"]


# ------------------------------------------------------------------ texts

TWICE = (
    "{% for m in messages %}<|user|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|><think> {% endif %}"
)


def greedy(policy, text, tokens):
    ids = torch.tensor([policy.tokenizer.encode(text, add_special_tokens=False)])
    made = policy.model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=tokens,
        pad_token_id=policy.tokenizer.pad_token_id,
    )
    return policy.decode([made[0, ids.shape[1] :].tolist()])[0]


@pytest.mark.parametrize("opens", [False, True])
def test_anyones_thought_is_answered_in_the_models_own_template(policy_of, opens):
    policy = policy_of()
    if opens:
        policy.tokenizer.chat_template = TWICE
    thoughts = ["3*8=24", "", " 1+1", "hmm 12+3"]
    made = answer_texts(
        policy, PROMPTS, thoughts, per_thought=2, max_new_tokens=7, temperature=0, seed=1
    )
    assert [len(texts) for texts in made] == [2, 2, 2, 2]
    for prompt, thought, texts in zip(policy.render(PROMPTS), thoughts, made, strict=True):
        begun = prompt if opens else prompt + "<think>"
        if opens and thought.startswith(" "):
            begun = begun.removesuffix(" ")  # one space, not two
        assert begun.count("<think>") == 1
        wanted = greedy(policy, f"{begun}{thought}</think>", 7)
        assert texts == [f"<think>{thought}</think>{wanted}"] * 2


def test_texts_of_thoughts_have_no_tags(policy_of, monkeypatch):
    policy = policy_of()
    texts = ["<think>1+2</think>", "<think>1+2", "1+2</think>", "1<think>+2"] * 2
    monkeypatch.setattr(policy, "decode", lambda tokens: texts)
    made = think_texts(policy, PROMPTS[:2], group_size=4, max_new_tokens=2, temperature=1, seed=0)
    assert made == [["1+2", "1+2", "1+2", "1<think>+2"]] * 2


def test_thought_texts_go_back_to_the_tokens_that_they_came_from(policy_of):
    """A policy that answers its own thoughts as texts sees what it sees as tokens."""
    policy = policy_of()
    policy.tokenizer.chat_template = TWICE.replace("<think> ", "<think>")
    settings = {"max_new_tokens": 5, "temperature": 0}
    texts = think_texts(policy, PROMPTS, group_size=1, seed=0, **settings)
    made = answer_texts(policy, PROMPTS, [p[0] for p in texts], seed=0, **settings)
    for prompt, thought, text in zip(policy.render(PROMPTS), texts, made, strict=True):
        assert thought[0] == greedy(policy, prompt, 5).split("</think>")[0]
        assert text[0].removeprefix(f"<think>{thought[0]}</think>") == greedy(
            policy, f"{prompt}{thought[0]}</think>", 5
        )


def test_what_can_not_be_answered_is_refused(policy_of):
    policy = policy_of()
    settings = {"max_new_tokens": 4, "temperature": 1.0, "seed": 0}
    with pytest.raises(WorkbenchError, match="4 prompts and 1 thoughts"):
        answer_texts(policy, PROMPTS, ["a"], **settings)
    with pytest.raises(WorkbenchError, match="contains </think>"):
        answer_texts(policy, PROMPTS[:1], ["1</think>2"], **settings)
    with pytest.raises(WorkbenchError, match="per_thought is 0"):
        answer_texts(policy, PROMPTS[:1], ["1"], per_thought=0, **settings)
    thoughts = think(policy, PROMPTS, group_size=1, max_new_tokens=3)
    with pytest.raises(WorkbenchError, match="per_thought is 0"):
        answer(policy, thoughts, per_thought=0)
