"""sample() and read() against transformers' generate, full forward passes and enumeration."""

import itertools
import re
import threading
from collections import Counter

import numpy as np
import pytest
import torch

from workbench.decoding import LOOK
from workbench.models import load_policy
from workbench.reading import read
from workbench.rollout import closing, sample, says_stop, until_stop
from workbench.sampling import filter_logits
from workbench.tokens import Tags
from workbench.variants import WorkbenchError

FAMILIES = ["llama", "qwen2", "qwen3", "gemma2", "gemma3_text"]


def token_stats(policy, rollouts, indices=None):
    return read(policy, rollouts, indices).logprobs_entropies()


def ask(*texts):
    return [[{"role": "user", "content": text}] for text in texts]


PROMPTS = ask("Make 24 from 3 8", "Compute 1", "Compute 12 + 3 * 4", "Make 7")


def full_logits(model, rollouts, b):
    """fp32 logits for each completion token of row `b`, run alone, without padding or cache."""
    p, length = b // rollouts.G, int(rollouts.lengths_B[b])
    prompt = rollouts.prompt_ids_PL[p][rollouts.prompt_mask_PL[p]]
    ids = torch.cat((prompt, rollouts.completion_ids_BT[b, :length]))[None]
    return model(ids, use_cache=False).logits[0, len(prompt) - 1 : -1].float()


# --- sampling -------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("greedy", [{"temperature": 0}, {"top_k": 1}])
def test_greedy_equals_generate_token_for_token(policy_of, family, greedy):
    policy = policy_of(family)
    mine = sample(policy, PROMPTS, group_size=2, max_new_tokens=12, **greedy)
    assert len(set(mine.prompt_mask_PL.sum(1).tolist())) > 1  # the padding is put to the test
    theirs = policy.model.generate(
        input_ids=mine.prompt_ids_PL,
        attention_mask=mine.prompt_mask_PL.long(),
        do_sample=False,
        max_new_tokens=12,
        pad_token_id=policy.tokenizer.pad_token_id,
    )[:, mine.prompt_ids_PL.shape[1] :]
    for b in range(mine.B):
        length = int(mine.lengths_B[b])
        row = theirs[b // 2]
        assert mine.completion_ids_BT[b, :length].tolist() == row[:length].tolist()
        assert bool(mine.truncated_B[b]) == (policy.tokenizer.eos_token_id not in row[:12].tolist())


def test_two_tokens_come_with_their_exact_probabilities(policy_of):
    policy = policy_of()
    drawn = sample(
        policy, PROMPTS[:1], group_size=4000, max_new_tokens=2, top_k=3, temperature=1.5, seed=5
    )
    model, prompt = policy.sampler(), drawn.prompt_ids_PL
    expected = {}
    first = filter_logits(model(prompt).logits[:, -1], top_k=3, temperature=1.5).softmax(-1)[0]
    for a in first.nonzero().flatten().tolist():
        if a == policy.tokenizer.eos_token_id:
            expected[(a,)] = float(first[a])
            continue
        logits = model(torch.cat((prompt, torch.tensor([[a]])), 1)).logits[:, -1]
        second = filter_logits(logits, top_k=3, temperature=1.5).softmax(-1)[0]
        for b in second.nonzero().flatten().tolist():
            expected[(a, b)] = float(first[a] * second[b])
    rows = zip(drawn.completion_ids_BT.tolist(), drawn.lengths_B.tolist(), strict=True)
    counts = dict.fromkeys(expected, 0)
    for tokens, length in rows:
        counts[tuple(tokens[:length])] += 1  # a completion of probability 0 is a KeyError
    chi_square = sum((counts[key] - 4000 * p) ** 2 / (4000 * p) for key, p in expected.items())
    assert len(expected) >= 7
    assert chi_square < 26.1  # 8 degrees of freedom, p = .001


def test_first_tokens_follow_the_whole_distribution(policy_of):
    policy = policy_of()
    drawn = sample(policy, PROMPTS[1:2], group_size=6000, max_new_tokens=1, seed=2)
    p = policy.sampler()(drawn.prompt_ids_PL).logits[0, -1].softmax(-1).detach().double()
    counts = torch.bincount(drawn.completion_ids_BT[:, 0], minlength=len(p)).double()
    common = 6000 * p >= 5
    seen = torch.cat((counts[common], counts[~common].sum()[None]))
    wanted = 6000 * torch.cat((p[common], p[~common].sum()[None]))
    cells = int(common.sum())
    assert cells > 10
    chi_square = float(((seen - wanted) ** 2 / wanted).sum())
    assert chi_square < cells + 4 * (2 * cells) ** 0.5  # mean + 4 standard deviations


def test_same_seed_same_rollouts_whatever_the_global_generator_does(policy_of):
    policy = policy_of()
    settings = {"group_size": 3, "max_new_tokens": 9}
    before = torch.random.get_rng_state()
    first = sample(policy, PROMPTS, seed=7, **settings)
    assert torch.equal(before, torch.random.get_rng_state())
    torch.rand(3)
    again = sample(policy, PROMPTS, seed=torch.Generator().manual_seed(7), **settings)
    other = sample(policy, PROMPTS, seed=8, **settings)
    assert torch.equal(first.completion_ids_BT, again.completion_ids_BT)
    assert torch.equal(first.logprobs_BT, again.logprobs_BT)
    assert first.completions == again.completions != other.completions


def test_a_worker_thread_draws_the_same(policy_of):
    policy = policy_of()
    found = {}

    def work():
        found["rollouts"] = sample(policy, PROMPTS, group_size=2, max_new_tokens=6, seed=3)

    thread = threading.Thread(target=work)
    thread.start()
    while thread.is_alive():
        torch.rand(10)  # the notebook's own draws
    mine = sample(policy, PROMPTS, group_size=2, max_new_tokens=6, seed=3)
    assert torch.equal(mine.completion_ids_BT, found["rollouts"].completion_ids_BT)
    assert torch.equal(mine.entropies_BT, found["rollouts"].entropies_BT)


def test_prefixes_that_part_and_rows_that_finish_keep_their_own_past(policy_of):
    policy = policy_of()
    policy.tokenizer.eos_token_id = 12  # a common token: rows finish all the time
    made = sample(policy, PROMPTS, group_size=24, max_new_tokens=40, temperature=1.5, seed=1)
    lengths = made.lengths_B.tolist()
    assert len(set(lengths)) > 8
    begun = [made.completion_ids_BT[:, :k].unique(dim=0).shape[0] for k in (1, 2, 4)]
    assert begun[0] < begun[1] < begun[2] < made.B  # completions begin alike, then part
    for b in range(made.B):
        logp = full_logits(policy.model, made, b).log_softmax(-1)
        wanted = logp[range(lengths[b]), made.completion_ids_BT[b, : lengths[b]]]
        assert torch.allclose(made.logprobs_BT[b, : lengths[b]], wanted, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_recorded_statistics_equal_a_full_forward_pass(policy_of, family):
    policy = policy_of(family)
    made = sample(policy, PROMPTS, group_size=2, max_new_tokens=10, temperature=1.3, top_p=0.9)
    with torch.no_grad():
        for b in range(made.B):
            z = full_logits(policy.model, made, b)
            logp = z.log_softmax(-1)
            length = len(z)
            tokens = made.completion_ids_BT[b, :length]
            wanted = {
                "logprobs_BT": logp[range(length), tokens],
                "entropies_BT": -(logp.exp() * logp).sum(-1),
                "log_collisions_BT": logp.exp().square().sum(-1).log(),
                "self_certainties_BT": -logp.mean(-1) - np.log(z.shape[-1]),  # KL(uniform || p)
                "log_peaks_BT": logp.exp().amax(-1).log(),
            }
            for name, values in wanted.items():
                assert torch.allclose(getattr(made, name)[b, :length], values, atol=1e-4), name
                assert not getattr(made, name)[b, length:].any()


def test_without_stats_the_tokens_stay_and_the_series_are_zero(policy_of):
    policy = policy_of()
    settings = {"group_size": 2, "max_new_tokens": 5}
    bare = sample(policy, PROMPTS, stats=False, **settings)
    assert bare.completions == sample(policy, PROMPTS, **settings).completions
    assert not bare.logprobs_BT.any()


def test_the_trainable_model_itself_can_be_sampled_and_keeps_its_mode(policy_of):
    policy = policy_of(lora_dropout=0.5)
    modes = [module.training for module in policy.model.modules()]
    assert any(modes)
    settings = {"group_size": 2, "max_new_tokens": 8}
    slow = sample(policy, PROMPTS, use_sampler=False, **settings)
    assert [module.training for module in policy.model.modules()] == modes
    quick = sample(policy, PROMPTS, **settings)
    assert torch.equal(slow.completion_ids_BT, quick.completion_ids_BT)
    assert torch.allclose(slow.logprobs_BT, quick.logprobs_BT, atol=1e-4)


def test_texts_masks_and_truncation_belong_together(policy_of):
    policy = policy_of()
    rows = [{"number": i} for i in range(4)]
    made = sample(policy, PROMPTS, rows=rows, group_size=8, max_new_tokens=30, temperature=3.0)
    end = policy.tokenizer.eos_token_id
    assert made.rows == rows
    assert (made.P, made.G, made.B) == (4, 8, 32)
    assert int(made.lengths_B.max()) == made.T
    assert made.truncated_B.any()
    assert not made.truncated_B.all()
    for b, tokens in enumerate(made.completion_ids_BT.tolist()):
        length = int(made.lengths_B[b])
        assert made.mask_BT[b].tolist() == [True] * length + [False] * (made.T - length)
        assert end not in tokens[: length - 1]
        assert (tokens[length - 1] == end) != bool(made.truncated_B[b])
        text = policy.tokenizer.decode(tokens[:length], skip_special_tokens=True)
        assert made.completions[b] == text
    assert made.texts_of(1) == made.completions[8:16]


def test_think_tags_stay_and_other_special_tokens_go(policy_of):
    policy = policy_of()
    policy.tokenizer.add_special_tokens({"additional_special_tokens": ["<think>", "</think>"]})
    ids = policy.tokenizer.encode("<think>1+2</think>3<|user|><|end|>", add_special_tokens=False)
    assert policy.decode([ids]) == ["<think>1+2</think>3"]


def test_select_makes_each_chosen_row_its_own_group(policy_of):
    policy = policy_of()
    rows = [{"number": i} for i in range(4)]
    made = sample(policy, PROMPTS, rows=rows, group_size=3, max_new_tokens=5)
    part = made.select([7, 2])
    assert (part.P, part.G, part.B) == (2, 1, 2)
    assert part.rows == [{"number": 2}, {"number": 0}]
    assert part.completions == [made.completions[7], made.completions[2]]
    mine = token_stats(policy, part)[0]
    assert torch.allclose(mine, token_stats(policy, made, [7, 2])[0], atol=1e-5)


def test_impossible_sizes_and_empty_prompts_are_refused(policy_of):
    policy = policy_of()
    with pytest.raises(WorkbenchError, match="group_size is 0"):
        sample(policy, PROMPTS, group_size=0, max_new_tokens=3)
    with pytest.raises(WorkbenchError, match="prompt is empty"):
        sample(policy, [], group_size=2, max_new_tokens=3)


# --- training -------------------------------------------------------------------------------------


def test_the_first_completions_of_each_group_are_those_of_the_batch(policy_of):
    made = sample(policy_of(), PROMPTS, group_size=3, max_new_tokens=6, seed=5)
    kept = made.first(2)
    rows = [3 * p + g for p in range(made.P) for g in range(2)]
    assert (kept.P, kept.G, kept.B) == (made.P, 2, 2 * made.P)
    assert kept.completions == [made.completions[b] for b in rows]
    assert torch.equal(kept.entropies_BT, made.entropies_BT[rows])
    assert torch.equal(kept.truncated_B, made.truncated_B[rows])
    assert kept.texts_of(1) == made.texts_of(1)[:2] and kept.prompts == made.prompts


def test_the_first_completions_of_the_first_prompts(policy_of):
    made = sample(policy_of(), PROMPTS, group_size=3, max_new_tokens=6, seed=5)
    kept = made.first(2, 1)
    assert (kept.P, kept.G, kept.B) == (1, 2, 2)
    assert kept.completions == made.completions[:2] and kept.prompts == made.prompts[:1]
    assert kept.rows == made.rows[:1] and torch.equal(kept.prompt_ids_PL, made.prompt_ids_PL[:1])
    assert torch.equal(kept.logprobs_BT, made.logprobs_BT[:2])
    assert made.first(3, made.P + 4).completions == made.completions


def test_rollouts_know_the_seed_that_drew_them(policy_of):
    settings = {"group_size": 1, "max_new_tokens": 2}
    policy = policy_of()
    assert sample(policy, PROMPTS, seed=7, **settings).seed == 7
    generator = torch.Generator().manual_seed(8)
    assert sample(policy, PROMPTS, seed=generator, **settings).seed == 8


def test_a_stop_text_ends_a_completion_after_the_token_that_completes_it(policy_of):
    """What is left is what was drawn without it, up to there; it is not truncated, the rest is 0."""
    ask = [[{"role": "user", "content": c}] for c in ("Make 24", "Compute 1 + 2")]
    plain, stopping = policy_of(), policy_of(stop='["+", "7"]')
    assert stopping.stop == ("+", "7")
    whole, cut = (
        sample(p, ask, group_size=8, max_new_tokens=24, seed=2) for p in (plain, stopping)
    )
    ended = 0
    for b in range(whole.B):
        tokens = whole.completion_ids_BT[b][whole.mask_BT[b]].tolist()
        texts = [plain.tokenizer.decode([t]) for t in tokens]
        at = next((n for n, text in enumerate(texts) if "+" in text or "7" in text), None)
        wanted = tokens if at is None else tokens[: at + 1]
        assert cut.completion_ids_BT[b][cut.mask_BT[b]].tolist() == wanted
        kept = len(wanted)
        # Rows that end early leave the others in another batch, which rounds otherwise.
        torch.testing.assert_close(cut.logprobs_BT[b, :kept], whole.logprobs_BT[b, :kept])
        assert not cut.logprobs_BT[b, kept:].any()
        assert cut.truncated_B[b] == (whole.truncated_B[b] if at is None else False)
        ended += at is not None
    assert 0 < ended < whole.B


def test_stop_texts_in_two_tokens_and_none(policy_of):
    assert policy_of().stop == ()
    policy = policy_of(stop="1 2")
    rows = [policy.tokenizer.encode(t, add_special_tokens=False) for t in ("3 1 2 4", "3 1")]
    tokens, mask = policy.left_padded(rows)
    tokens = torch.stack(
        [torch.roll(row, -int((~m).sum())) for row, m in zip(tokens, mask, strict=True)]
    )
    mask = torch.arange(tokens.shape[1]) < mask.sum(1, keepdim=True)
    kept, stopped = until_stop(policy, tokens, mask, policy.stop)
    texts = [policy.tokenizer.decode(t[m]) for t, m in zip(tokens, kept, strict=True)]
    assert texts[0].endswith("1 2") and stopped.tolist() == [True, False]
    assert torch.equal(kept[1], mask[1])


def test_drawing_ends_soon_after_the_last_row_came_to_its_stop_text(policy_of, monkeypatch):
    """The rows are those that are cut afterwards alone, in fewer steps of the model."""
    ask = [[{"role": "user", "content": "Make 24"}]]
    policy = policy_of(stop='["+", "7", "1", "2"]')
    steps, found = [], []
    forward = type(policy.model.get_base_model()).forward

    def counted(self, *args, **kwargs):
        steps[-1] += 1
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(type(policy.model.get_base_model()), "forward", counted)
    for looking in (True, False):
        if not looking:
            monkeypatch.setattr(
                "workbench.rollout.says_stop",
                lambda policy, tokens, ends: torch.zeros(len(tokens), dtype=torch.bool),
            )
        steps.append(0)
        found.append(sample(policy, ask, group_size=4, max_new_tokens=64, seed=4))
    soon, late = found
    assert torch.equal(soon.completion_ids_BT, late.completion_ids_BT)
    assert torch.equal(soon.truncated_B, late.truncated_B)
    longest = int(soon.mask_BT.sum(1).max())
    assert not soon.truncated_B.any() and longest < 48 < steps[1]
    assert steps[0] == -(-longest // LOOK) * LOOK


def test_rows_that_say_a_stop_text_are_found_wherever_it_is_among_the_last_tokens(policy_of):
    policy = policy_of(stop='["1 2", "7"]')
    texts = ["3 1 2 4", "3 1 3 2", "7 3 1 3", "3 3 1 2"]
    rows = torch.tensor([policy.tokenizer.encode(t, add_special_tokens=False) for t in texts])
    assert says_stop(policy, rows, policy.stop).tolist() == [True, False, True, True]
    long = torch.cat(
        (rows[:1], rows[1:2].repeat(1, 20)), 1
    )  # said long ago: cut later all the same
    assert says_stop(policy, long, policy.stop).tolist() == [False]
    assert until_stop(policy, long, torch.ones_like(long, dtype=torch.bool), policy.stop)[
        1
    ].tolist() == [True]


# ------------------------------------------------------------------ where thoughts are closed


def padded(rows, fill):
    mask_BT = torch.arange(max(map(len, rows))) < torch.tensor([len(row) for row in rows])[:, None]
    tokens_BT = torch.full(mask_BT.shape, fill)
    tokens_BT[mask_BT] = torch.tensor([token for row in rows for token in row])
    return tokens_BT, mask_BT


def test_a_token_of_its_own_closes_and_padding_does_not(policy_of):
    policy = policy_of()
    end = policy.thought_end_id()
    spelled = [policy.tokenizer.convert_tokens_to_ids(sign) for sign in "</>"]
    tokens_BT, mask_BT = padded([[9, end, 10, end], [end], spelled], fill=end)
    found_BT = closing(policy, tokens_BT, mask_BT)
    assert found_BT.tolist() == [[False, True, False, True], [True] + [False] * 3, [False] * 4]


BEFORE = ("", "3", "7", "<", "</", "é", "<think>", "</think>", "</think", " ")
AFTER = ("", "7", "\n", "\n7", "4", ">", "<", "</think>", "7</think>", "</thi", "é", "<|end|>")


def test_a_tag_in_several_tokens_closes_where_the_twins_one_token_does(spelling_world):
    """Every text of BEFORE, the tag and AFTER: the token closes that holds the last character of a tag."""
    settings = {"quantize": "none", "lora_rank": 2, "device": "cpu"}
    spells = load_policy(spelling_world(), **settings)
    twin = load_policy(spelling_world("<think>", "</think>"), **settings)
    assert spells.thought_end_id() is None and twin.thought_end_id() is not None
    texts = [f"{one}</think>{two}" for one in BEFORE for two in AFTER] + ["</think", "37", ">"]
    ends, beyond = [], 0
    for policy in (spells, twin):
        ends.append([])
        rows = [policy.tokenizer.encode(text, add_special_tokens=False) for text in texts]
        found_BT = closing(policy, *padded(rows, fill=0))
        for row, closes in zip(rows, found_BT.tolist(), strict=True):
            parts = policy.tokenizer.batch_decode([row[: n + 1] for n in range(len(row))])
            spans = [(len(parts[n - 1]) if n else 0, len(parts[n])) for n in range(len(row))]
            ends[-1].append([span for span, on in zip(spans, closes, strict=False) if on])
    for text, several, single in zip(texts, *ends, strict=True):
        tags = [match.end() for match in re.finditer("</think>", text)]
        assert [end for _, end in single] == tags
        assert len(several) == len(tags)
        assert all(start < tag <= end for tag, (start, end) in zip(tags, several, strict=True))
        beyond += sum(end > tag for tag, (_, end) in zip(tags, several, strict=True))
    assert beyond > 20  # `>7` and `>` with a line break hold more than the tag


def test_what_is_sampled_says_where_it_closes(policy_of):
    """A tag of two likely tokens is complete where one more of it stands in the text than a token before."""
    policy = policy_of()
    drawn = sample(policy, PROMPTS, group_size=40, max_new_tokens=8, temperature=1.5, seed=2)
    pairs = zip(drawn.completion_ids_BT[:, :-1].flatten().tolist(),
                drawn.completion_ids_BT[:, 1:].flatten().tolist(), strict=True)  # fmt: skip
    special = set(policy.tokenizer.all_special_ids)
    counts = Counter(pair for pair in pairs if pair[0] != pair[1] and not special & set(pair))
    pair = counts.most_common(1)[0][0]
    policy.tags = Tags("<think>", policy.tokenizer.decode(pair))
    again = sample(policy, PROMPTS, group_size=40, max_new_tokens=8, temperature=1.5, seed=2)
    assert torch.equal(again.completion_ids_BT, drawn.completion_ids_BT)
    closed = 0
    for b in range(again.B):
        ids = again.completion_ids_BT[b][again.mask_BT[b]].tolist()
        begun = policy.tokenizer.batch_decode([ids[:n] for n in range(len(ids) + 1)])
        counts = [text.count(policy.tags.close) for text in begun]
        wanted = [after > before for before, after in itertools.pairwise(counts)]
        assert again.closing_BT[b, : len(ids)].tolist() == wanted
        own = drawn.completions[b].count("</think>")  # the toy model has that token, too
        assert again.completions[b].count("</think>") == sum(wanted) + own
        closed += sum(wanted)
    assert closed > 3
