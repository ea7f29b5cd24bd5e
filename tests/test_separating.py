"""Masked tokens get no gradient, whatever one trains with; what is left is the gradient of the rest."""

import dataclasses
import itertools
from types import SimpleNamespace

import pytest
import torch

from workbench import anchoring, scoring, trainer
from workbench.anchors import ANCHORS
from workbench.decoding import evaluating
from workbench.folder import RunFolder, read_checkpoint_recipe, restore
from workbench.memory import Memory, note_post_pre
from workbench.models import load_policy
from workbench.objectives import OBJECTIVES
from workbench.reading import read
from workbench.recipe import Recipe
from workbench.rollout import closing, sample
from workbench.runs import train
from workbench.separating import malformed_rows, separate, tells_apart
from workbench.separation import SEPARATIONS, stage, thinking
from workbench.surrogates import AGGREGATIONS, SURROGATES
from workbench.tables import rollout_table
from workbench.tiles import given
from workbench.trainer import Report, prepare, train_step
from workbench.variants import Variant

TEXTS = (
    "<think>3+4=7</think>7<|end|>",  # 7 tokens of thinking, 2 of answer
    "<think>3+4=7</think>3+4<|end|>",  # the same thought, 4 of answer
    "<think>3</think>4</think>5<|end|>",  # twice: 5 of thinking, 2 of answer
    "<think>4*4",  # cut off: 4 of thinking
)
THOUGHTS, LENGTHS = (7, 7, 5, 4), (9, 11, 7, 4)
BAD = [False, False, True, True]


def written(policy, prompts, texts, *, limit=16, **settings):
    """Rollouts of completions written by hand, the same `texts` for each prompt, "<|end|>" where they end.

    Log-probs are the policy's own; of what else is recorded while sampling there is nothing.
    """
    found = sample(policy, prompts, group_size=len(texts), max_new_tokens=1, **settings)
    ids = [policy.tokenizer.encode(text, add_special_tokens=False) for text in texts] * len(prompts)
    tokens_BT = torch.zeros(len(ids), max(map(len, ids)), dtype=torch.long)
    mask_BT = torch.zeros_like(tokens_BT, dtype=torch.bool)
    for row, numbers in enumerate(ids):
        tokens_BT[row, : len(numbers)] = torch.tensor(numbers)
        mask_BT[row, : len(numbers)] = True
    per_token = [field.name for field in dataclasses.fields(found) if field.name.endswith("_BT")]
    changes = {
        name: mask_BT.clone() if getattr(found, name).dtype == torch.bool else torch.zeros(mask_BT.shape)
        for name in per_token
    }  # fmt: skip
    changes["completion_ids_BT"] = tokens_BT
    changes["closing_BT"] = closing(policy, tokens_BT, mask_BT)
    truncated_B = torch.tensor([numbers[-1] not in policy.stop_ids() for numbers in ids])
    found = dataclasses.replace(
        found,
        **changes,
        truncated_B=truncated_B,
        completions=policy.decode(ids),
        max_new_tokens=limit,
    )
    with torch.no_grad(), evaluating(policy.model):
        logprobs_BT, entropies_BT = read(policy, found).logprobs_entropies()
    return dataclasses.replace(found, logprobs_BT=logprobs_BT, entropies_BT=entropies_BT)


def ask(count):
    return [[{"role": "user", "content": f"Make {n} from 3 4"}] for n in range(count)]


def masks(*, thinking, answer):
    """The tokens of TEXTS that are trained, where a well-formed completion trains these parts."""
    found = torch.zeros(4, max(LENGTHS), dtype=torch.bool)
    for row, (thought, length) in enumerate(zip(THOUGHTS, LENGTHS, strict=True)):
        found[row, :thought] = thinking or BAD[row]
        found[row, thought:length] = answer
    return found


@pytest.mark.parametrize(
    ("name", "late", "parts"),
    [
        ("joint", False, (True, True)),
        ("thinking_only", True, (True, False)),
        ("answer_only", True, (False, True)),
        ("start", False, (True, False)),
        ("start", True, (True, True)),
        ("reversed", False, (False, True)),
        ("reversed", True, (True, True)),
    ],
)
def test_a_malformed_completion_trains_its_thinking_whatever_the_stage(
    policy_of, name, late, parts
):
    policy = policy_of()
    rollouts = written(policy, ask(1), TEXTS)
    found = separate(policy, Recipe(separation=name), rollouts, late)
    assert rollouts.lengths_B.tolist() == list(LENGTHS)
    assert found.thinking_BT.sum(1).tolist() == list(THOUGHTS)
    assert found.malformed_B.tolist() == BAD
    assert torch.equal(found.trained_BT, masks(thinking=parts[0], answer=parts[1]))


def test_an_end_of_thought_in_other_tokens_is_none(policy_of):
    """By its text the completion is fine, but the model has a token for the tag and did not write it."""
    policy = policy_of()
    rollouts = written(policy, ask(1), ("<think>3</think>7<|end|>", "3+4=777 7<|end|>"))
    spelled = dataclasses.replace(rollouts, completions=[rollouts.completions[0]] * 2)
    assert malformed_rows(spelled).tolist() == [False, True]


# --- what there is to tell apart ------------------------------------------------------------------

PLAIN, TAGGED = ("3+4=7<|end|>", "4*4"), ("<think>3</think>7<|end|>", "4*4")
PARTED = ({"separation": "start"}, {"answerer": "initial"}, {"answers_per_thought": 2})


@pytest.mark.parametrize("has_token", [True, False])
@pytest.mark.parametrize("texts", [PLAIN, TAGGED])
def test_parts_are_told_where_the_recipe_needs_them_or_the_model_thinks(
    policy_of, monkeypatch, has_token, texts
):
    policy = policy_of()
    if not has_token:
        monkeypatch.setattr("workbench.models.Policy.thought_end_id", lambda policy: None)
    rollouts = written(policy, ask(1), texts)
    for recipe in (Recipe(), *(Recipe(**parted) for parted in PARTED)):
        told = recipe != Recipe() or has_token or texts is TAGGED
        assert tells_apart(policy, recipe, rollouts) == told
        assert (separate(policy, recipe, rollouts, False).malformed_B is not None) == told
    closed = dataclasses.replace(rollouts, prompts=["Make 7<think>\n\n</think>\n\n"])
    assert not tells_apart(policy, Recipe(), closed)  # its template did the thinking
    policy.thinking = "off"
    assert not tells_apart(policy, Recipe(), rollouts)
    parts = separate(policy, Recipe(), rollouts, False)
    assert not parts.thinking_BT.any() and torch.equal(parts.trained_BT, rollouts.mask_BT)


def test_who_is_told_not_to_think_has_no_malformed_share(toy_recipe):
    state = prepare(toy_recipe)
    assert train_step(state, toy_recipe).metrics["rollout/malformed"] > 0.5
    state.policy.thinking = "off"
    report = train_step(state, toy_recipe, measure_kl=True)
    assert "rollout/malformed" not in report.metrics and not report.thinking_BT.any()
    assert torch.equal(report.trained_BT, report.rollouts.mask_BT)
    assert "train/kl" in report.metrics and "train/kl_answer" not in report.metrics


def assert_gradient_of(loss, state, found):
    """The gradient of `loss` by autograd is what was `found`, and is not 0."""
    for _, parameter in state.policy.trainable():
        parameter.grad = None
    loss.backward()
    for mine, (_, parameter) in zip(found, state.policy.trainable(), strict=True):
        torch.testing.assert_close(mine, parameter.grad, atol=1e-6, rtol=1e-4)
    assert max(part.abs().max() for part in found) > 1e-4


# --- a closing tag of several tokens --------------------------------------------------------------

# `</`, `think`, and `>`, `>7` or `>` with a line break: what the last one carries is thinking as well.
SPELLED = (
    "<think>3+4</think>8<|end|>",  # < think > 3 + 4 </ think > | 8 end
    "<think>3+4</think>7<|end|>",  # ... >7 | end
    "<think>3</think>\n45<|end|>",  # < think > 3 </ think >\n | 4 5 end
    "<think>4</thinking",  # all thinking
)
SPELLED_THOUGHTS, SPELLED_LENGTHS = (9, 9, 7, 9), (11, 10, 10, 9)
TWIN_THOUGHTS, TWIN_LENGTHS = (5, 5, 3, 7), (7, 7, 7, 7)


@pytest.fixture
def spelling(spelling_world):
    """tokens -> policy of the model with these tokens beside bytes."""

    def build(*tokens):
        return load_policy(spelling_world(*tokens), quantize="none", lora_rank=4, device="cpu")

    return build


@pytest.mark.parametrize("name", SEPARATIONS)
def test_a_spelled_tag_parts_as_the_twins_token_does(spelling, name):
    recipe = Recipe(separation=name)
    for tokens, thoughts, lengths in (
        ((), SPELLED_THOUGHTS, SPELLED_LENGTHS),
        (("<think>", "</think>"), TWIN_THOUGHTS, TWIN_LENGTHS),
    ):
        policy = spelling(*tokens)
        assert (policy.thought_end_id() is None) == (not tokens)
        rollouts = written(policy, ask(1), SPELLED)
        found = separate(policy, recipe, rollouts, False)
        assert rollouts.completions == [text.removesuffix("<|end|>") for text in SPELLED]
        assert rollouts.lengths_B.tolist() == list(lengths)
        assert found.thinking_BT.sum(1).tolist() == list(thoughts)
        assert found.malformed_B.tolist() == [False, False, False, True]
        first, second = stage(name, False)
        for row, (thought, length) in enumerate(zip(thoughts, lengths, strict=True)):
            trained = found.trained_BT[row].tolist()
            assert trained[:thought] == [first or row == 3] * thought
            assert trained[thought:length] == [second] * (length - thought)
            assert not any(trained[length:])


@pytest.mark.parametrize("name", ["thinking_only", "answer_only"])
def test_a_step_trains_only_its_part_where_the_tag_is_spelled(
    spelling_world, toy_recipe, monkeypatch, name
):
    """The gradient against autograd over each completion alone."""

    def answers(policy, prompts, *, rows, group_size, seed, **settings):
        found = written(policy, prompts, SPELLED, seed=seed)
        return dataclasses.replace(found, rows=[dict(row) for row in rows])

    monkeypatch.setattr(scoring, "sample", answers)
    monkeypatch.setattr(trainer, "clip_and_step", lambda *given: None)
    recipe = toy_recipe.replace(
        model=spelling_world(), quantize="none", device="cpu", separation=name, aggregation="sum"
    )
    state = prepare(recipe)
    with torch.no_grad():
        for _, parameter in state.policy.trainable():
            parameter.add_(0.05)
    report = train_step(state, recipe)
    found = [parameter.grad.clone() for _, parameter in state.policy.trainable()]
    assert report.metrics["rollout/malformed"] == 0.25
    lowest_P1 = report.rewards["digits"].amin(-1, keepdim=True)
    assert torch.equal(report.total_PG[:, 3:], lowest_P1)
    loss = 0.0
    for b, advantage in enumerate(report.advantages_PG.flatten().tolist()):
        thought, length = SPELLED_THOUGHTS[b % 4], SPELLED_LENGTHS[b % 4]
        part = (
            slice(0, thought) if name == "thinking_only" or b % 4 == 3 else slice(thought, length)
        )
        logprobs = read(state.policy, report.rollouts, [b]).logprobs_entropies()[0][0]
        loss = loss - advantage * logprobs[part].sum() / 12
    assert_gradient_of(loss, state, found)


# --- every combination ----------------------------------------------------------------------------

STAGES = [*((name, False) for name in SEPARATIONS), ("start", True)]  # "reversed" ends like "start"
CHOICES = ("estimator", "place", "source", "form", "guide")


def forms(row, names):
    """Arguments of `row` for every combination of the choices named."""
    open_ = [param for param in row.params if param.choices and param.name in names]
    for values in itertools.product(*(param.choices for param in open_)):
        yield {param.name: value for param, value in zip(open_, values, strict=True)}


ANCHORED = [(name, form) for name, row in ANCHORS.items() for form in forms(row, CHOICES)]
SURROGATED = [(name, form) for name, row in SURROGATES.items() for form in forms(row, ("level",))]


class Leaves:
    """Stands in for `read`: logits of a batch computed once and given out as leaves, so that each update
    costs its loss alone; their gradients are what is looked at."""

    def __init__(self, policy, *batches):
        self.held = {}
        for rollouts in batches:
            with torch.no_grad():
                mine = read(policy, rollouts)
                with policy.reference():
                    base = read(policy, rollouts)
            self.held[id(rollouts)] = mine, base
        self.given = {}

    def read(self, policy, rollouts, indices=None):
        """All rows at once (microbatch is large); the reference's where no gradient is asked for."""
        whole, base = self.held[id(rollouts)]
        assert indices is None or indices.tolist() == list(range(rollouts.B))
        if not torch.is_grad_enabled():
            return base
        leaf_CV = whole.logits().requires_grad_()
        self.given[id(rollouts)] = leaf_CV
        return dataclasses.replace(whole, states=given(leaf_CV))

    def gradients(self, rollouts, trained_BT):
        """Gradient of the logits that trained tokens were drawn from, per token, and of all others."""
        leaf_CV, whole = self.given[id(rollouts)], self.held[id(rollouts)][0]
        trained_C = torch.zeros(len(leaf_CV), dtype=torch.bool)
        trained_C[whole.context_NT[trained_BT]] = True
        per_token_BT = leaf_CV.grad.abs().amax(-1)[whole.context_NT] * trained_BT
        return per_token_BT, leaf_CV.grad[~trained_C]


def advantages_of_every_objective(rollouts):
    """One group for each objective, the same completions and rewards in all, (P, G)."""
    size = rollouts.G
    reward_PG = torch.tensor([[1.0, 0.0, 0.0, 1.0]])
    for number, (name, row) in enumerate(OBJECTIVES.items()):
        arguments = {"k": 2} if "k" in row.defaults else {}
        arguments |= {"beta": [2.0, 1.0, 0.5]} if "beta" in row.defaults else {}
        recipe = Recipe(objective=name, objective_args=arguments, group_size=size)
        group = rollouts.select(range(number * size, (number + 1) * size))
        known = row.defaults | arguments
        yield scoring.advantages(recipe, known, group, reward_PG)[0]


@pytest.mark.parametrize(("separation", "late"), STAGES)
def test_masked_positions_get_exactly_no_gradient(policy_of, monkeypatch, separation, late):
    """Every objective (a group each) x surrogate x aggregation x anchor, in each stage of each separation."""
    policy = policy_of()
    rollouts = written(policy, ask(len(OBJECTIVES)), TEXTS)
    noise_BT = 1e-4 * torch.randn(
        rollouts.mask_BT.shape, generator=torch.Generator().manual_seed(0)
    )
    old_BT = (rollouts.logprobs_BT + noise_BT) * rollouts.mask_BT  # ratios off 1, within every clip
    rollouts = dataclasses.replace(rollouts, logprobs_BT=old_BT)
    drawn = written(policy, ask(len(OBJECTIVES)), TEXTS[:1])
    advantages_PG = torch.cat(list(advantages_of_every_objective(rollouts)))
    arguments = {"switch": "step", "step": 0 if late else 9}
    plain = Recipe(separation=separation, beta=0.3, group_size=4, max_new_tokens=16,
                   prompts_per_step=len(OBJECTIVES),
                   separation_args=arguments if SEPARATIONS[separation].params else {})  # fmt: skip
    parts = separate(policy, plain, rollouts, late)
    drawn_parts = separate(policy, plain, drawn, late)
    report = Report(
        1, {}, rollouts, {}, advantages_PG, advantages_PG, advantages_PG,
        parts.thinking_BT, parts.trained_BT,
    )  # fmt: skip
    state = SimpleNamespace(policy=policy, memory=Memory.fresh(4), optimizer=SimpleNamespace(param_groups=[]),
                            task=SimpleNamespace(messages=lambda row: ask(1)[0]))  # fmt: skip
    leaves, prepared = Leaves(policy, rollouts, drawn), {}
    monkeypatch.setattr(trainer, "clip_and_step", lambda *given: None)

    def once(recipe, *given):
        """The anchor of a form, prepared for real the first time it is met."""
        key = (recipe.anchor, *recipe.anchor_args.items())
        if key not in prepared:
            with monkeypatch.context() as patch:
                patch.setattr(anchoring, "sample", lambda *_, **settings: drawn)
                prepared[key] = anchoring.prepare_anchor(recipe, *given)
        return dataclasses.replace(prepared[key], recipe=recipe)

    monkeypatch.setattr(trainer, "prepare_anchor", once)
    for anchor, form in ANCHORED:
        once(plain.replace(anchor=anchor, anchor_args=form), policy, state.memory, rollouts, 1, ask(1),
             parts.trained_BT).credit()  # fmt: skip
    monkeypatch.setattr(trainer, "read", leaves.read)
    monkeypatch.setattr(anchoring, "read", leaves.read)
    for (anchor, form), (surrogate, level), aggregation in itertools.product(
        ANCHORED, SURROGATED, AGGREGATIONS
    ):
        recipe = dataclasses.replace(
            plain, anchor=anchor, anchor_args=form, surrogate=surrogate, surrogate_args=level,
            aggregation=aggregation,
        )  # fmt: skip
        case = f"{anchor} {form} {surrogate} {level} {aggregation}"
        trainer.update(state, recipe, report, rollouts)
        per_token_BT, masked = leaves.gradients(rollouts, parts.trained_BT)
        assert torch.count_nonzero(masked) == 0, case
        per_objective_P = per_token_BT.view(len(OBJECTIVES), -1).amax(-1)
        assert (per_objective_P > 0).all() and per_token_BT.isfinite().all(), case
        if form.get("source") == "samples":
            per_token_BT, masked = leaves.gradients(drawn, drawn_parts.trained_BT)
            assert torch.count_nonzero(masked) == 0, case
            assert (per_token_BT[drawn_parts.trained_BT] > 0).all(), case


@pytest.mark.parametrize("name", ["thinking_only", "answer_only"])
def test_what_was_recorded_of_masked_tokens_changes_nothing(policy_of, monkeypatch, name):
    """Ratios of whole completions, guides and means over the batch are taken from trained tokens alone."""
    policy = policy_of()
    rollouts = written(policy, ask(2), TEXTS)
    plain = Recipe(separation=name, beta=0.3, group_size=4, max_new_tokens=16, prompts_per_step=2)
    parts = separate(policy, plain, rollouts, False)
    advantages_PG = torch.tensor([[1.0, -1.0, -0.5, 0.5]]).repeat(2, 1)
    state = SimpleNamespace(policy=policy, memory=Memory.fresh(4), optimizer=SimpleNamespace(param_groups=[]),
                            task=SimpleNamespace(messages=lambda row: ask(1)[0]))  # fmt: skip
    monkeypatch.setattr(trainer, "clip_and_step", lambda *given: None)

    def gradient(recipe, logprobs_BT):
        batch = dataclasses.replace(rollouts, logprobs_BT=logprobs_BT)
        report = Report(
            1, {}, batch, {}, advantages_PG, advantages_PG, advantages_PG,
            parts.thinking_BT, parts.trained_BT,
        )  # fmt: skip
        for _, parameter in policy.trainable():
            parameter.grad = None
        trainer.update(state, recipe, report, batch)
        return torch.cat([parameter.grad.flatten() for _, parameter in policy.trainable()])

    off_BT = rollouts.logprobs_BT - 0.7 * (rollouts.mask_BT & ~parts.trained_BT)
    recipes = [plain.replace(anchor=row, anchor_args=given) for row, given in ANCHORED
               if given.get("source") != "samples"]  # fmt: skip
    recipes += [plain.replace(surrogate=row, surrogate_args=given) for row, given in SURROGATED]
    for recipe in recipes:
        as_it_was, shifted = gradient(recipe, rollouts.logprobs_BT), gradient(recipe, off_BT)
        assert torch.equal(as_it_was, shifted) and as_it_was.abs().max() > 1e-4, recipe.changed()


# --- the trained part is what it should be --------------------------------------------------------


@pytest.fixture
def toy(toy_recipe, monkeypatch):
    """A recipe on the CPU whose prompts are always answered with TEXTS."""

    def answers(policy, prompts, *, rows, group_size, seed, **settings):
        found = written(policy, prompts, TEXTS * (group_size // 4), seed=seed)
        return dataclasses.replace(found, rows=[dict(row) for row in rows])

    monkeypatch.setattr(scoring, "sample", answers)
    return toy_recipe.replace(quantize="none", device="cpu", max_new_tokens=16)


def adapter(state):
    return torch.cat([parameter.detach().flatten() for _, parameter in state.policy.trainable()])


def plain_numbers(report):
    return {key: value for key, value in report.metrics.items() if not key.startswith("time/")}


def everything(thinking_BT, answer_BT, switched):
    """All tokens, by another name than joint."""
    return thinking_BT | answer_BT


SETTINGS = (
    {},
    {"surrogate": "gspo", "aggregation": "token_mean", "epochs": 2, "minibatches": 3, "beta": 0.1},
    {"beta": 0.3, "anchor_args": {"estimator": "k1", "place": "reward"}},
    {"beta": 0.3, "anchor_args": {"estimator": "exact"}, "lora_dropout": 0.2},
    {"beta": 0.3, "anchor": "forward_kl", "anchor_args": {"source": "samples"}},
)


@pytest.mark.parametrize("settings", SETTINGS)
def test_a_mask_of_ones_is_the_plain_trainer_bit_for_bit(toy, monkeypatch, settings):
    """A row that trains everything, against the trainer as it is where nothing can be told apart."""
    found = []
    for separation in ("joint", "answer_only"):
        with monkeypatch.context() as patch:
            if separation == "joint":
                patch.setattr("workbench.separating.tells_apart", lambda *given: False)
            else:
                patch.setitem(SEPARATIONS, separation, Variant(everything, "", ""))
                patch.setattr(
                    scoring, "malformed_rows", lambda rollouts: torch.zeros(12, dtype=bool)
                )
            recipe = toy.replace(separation=separation, **settings)
            state = prepare(recipe)
            reports = [train_step(state, recipe, measure_kl=True) for _ in range(3)]
            found.append((adapter(state), [plain_numbers(report) for report in reports]))
    assert torch.equal(found[0][0], found[1][0])
    for mine, theirs in zip(found[0][1], found[1][1], strict=True):
        assert all(theirs[key] == value for key, value in mine.items())


def test_joint_numbers_are_those_of_before_there_was_a_separation(toy_recipe):
    """Figures of three steps recorded before this module was written; there they were equal to the bit."""
    recipe = toy_recipe.replace(
        device="cpu", quantize="none", surrogate="gspo", aggregation="token_mean", epochs=2,
        minibatches=3, objective="grpo", beta=0.1,
    )  # fmt: skip
    state = prepare(recipe)
    reports = [train_step(state, recipe, measure_kl=True) for _ in range(3)]
    metrics = reports[-1].metrics
    assert metrics["train/loss"] == pytest.approx(0.02724571619182825, rel=1e-3)
    assert metrics["train/kl"] == pytest.approx(0.33936983346939087, rel=1e-3)
    assert metrics["train/grad_norm"] == pytest.approx(2.0531082153320312, rel=1e-3)
    assert float(adapter(state).abs().sum()) == pytest.approx(161.25706481933594, rel=1e-4)


@pytest.mark.parametrize("name", ["thinking_only", "answer_only"])
@pytest.mark.parametrize("aggregation", list(AGGREGATIONS))
def test_the_masked_gradient_is_that_of_the_written_loss(toy, monkeypatch, name, aggregation):
    """Against autograd over each completion alone; denominators count the trained tokens only."""
    monkeypatch.setattr(trainer, "clip_and_step", lambda *given: None)
    recipe = toy.replace(separation=name, aggregation=aggregation)
    state = prepare(recipe)
    with torch.no_grad():
        for _, parameter in state.policy.trainable():
            parameter.add_(0.05)
    state.policy.refresh_sampler()
    report = train_step(state, recipe)
    found = [parameter.grad.clone() for _, parameter in state.policy.trainable()]
    kept_BT = masks(thinking=name == "thinking_only", answer=name == "answer_only").repeat(3, 1)
    assert torch.equal(report.trained_BT, kept_BT)
    counts = kept_BT.sum(1).tolist()
    loss = 0.0
    for b, advantage in enumerate(report.advantages_PG.flatten().tolist()):
        logprobs = read(state.policy, report.rollouts, [b]).logprobs_entropies()[0][0]
        total = (logprobs * kept_BT[b, : len(logprobs)]).sum()
        weight = {"sum": 1 / 12, "token_mean": 1 / sum(counts), "fixed_length": 1 / (12 * 16),
                  "sequence_mean": 1 / (12 * counts[b])}[aggregation]  # fmt: skip
        loss = loss - advantage * weight * total
    assert_gradient_of(loss, state, found)


def test_rows_without_a_trained_token_are_not_computed(toy, monkeypatch):
    def first_of_each(thinking_BT, answer_BT, switched):
        everything_BT = thinking_BT | answer_BT
        if isinstance(everything_BT, bool):  # asked what the stage trains
            return everything_BT
        return everything_BT & (torch.arange(len(everything_BT)) % 4 == 0)[:, None]

    monkeypatch.setitem(SEPARATIONS, "thinking_only", Variant(first_of_each, "", ""))

    def none_malformed(rollouts):
        return torch.zeros(rollouts.B, dtype=torch.bool)

    monkeypatch.setattr("workbench.separating.malformed_rows", none_malformed)
    seen = []

    def spy(policy, rollouts, indices=None):
        seen.append(indices.tolist())
        return read(policy, rollouts, indices)

    monkeypatch.setattr(trainer, "read", spy)
    monkeypatch.setattr(anchoring, "read", spy)
    recipe = toy.replace(
        separation="thinking_only", beta=0.2, anchor="forward_kl", anchor_args={"source": "samples"}
    )
    metrics = train_step(prepare(recipe), recipe).metrics
    # The reference over the batch; the three rows; of its three completions the first alone.
    assert seen[1:] == [[0, 4, 8], [0]]
    assert metrics["train/trained_share"] == pytest.approx(9 / sum(LENGTHS))


def test_malformed_completions_get_the_lowest_total_also_in_refills(toy):
    """Digits are half of what the malformed ones say, so joint would reward them."""
    shown = {}
    for separation in ("joint", "thinking_only"):
        recipe = toy.replace(separation=separation, refill_rounds=1, objective=dead_first)
        report = train_step(prepare(recipe), recipe)
        shown[separation] = report
        assert report.metrics["rollout/malformed"] == 0.5
        assert report.metrics["groups/refilled"] == pytest.approx(1 / 3)
    joint, apart = shown["joint"], shown["thinking_only"]
    assert torch.equal(joint.total_PG, joint.rewards["digits"])
    lowest_P1 = apart.rewards["digits"].amin(-1, keepdim=True)
    assert torch.equal(apart.rewards["digits"], joint.rewards["digits"])  # as measured
    assert torch.equal(apart.total_PG[:, 2:], lowest_P1.expand(3, 2))
    assert torch.equal(apart.total_PG[:, :2], apart.rewards["digits"][:, :2])
    assert (apart.rewards["digits"][:, 2:] > lowest_P1).any()
    assert torch.equal(
        apart.advantages_PG[1:], apart.total_PG[1:] - apart.total_PG[1:].mean(1, keepdim=True)
    )


def dead_first(rewards_PG):
    """Less the mean; the first of three groups is dead, so that it is drawn anew."""
    advantages_PG = rewards_PG - rewards_PG.mean(-1, keepdim=True)
    if len(rewards_PG) == 3:
        advantages_PG[0] = 0.0
    return advantages_PG


def test_answers_drift_although_masked_and_that_is_shown(toy):
    recipe = toy.replace(separation="thinking_only", learning_rate=0.05)
    state = prepare(recipe)
    for _ in range(2):
        train_step(state, recipe)
    report = train_step(state, recipe, measure_kl=True)
    rollouts = report.rollouts
    with torch.no_grad(), state.policy.reference():
        base_BT = read(state.policy, rollouts).logprobs_entropies()[0]
    answers_BT = rollouts.mask_BT & ~report.thinking_BT
    kl_BT = rollouts.logprobs_BT - base_BT
    assert report.metrics["train/kl_answer"] == pytest.approx(
        float(kl_BT[answers_BT].mean()), abs=1e-5
    )
    assert report.metrics["train/kl"] == pytest.approx(
        float(kl_BT[rollouts.mask_BT].mean()), abs=1e-5
    )
    assert abs(report.metrics["train/kl_answer"]) > 1e-4


def test_credit_of_a_penalty_in_the_reward_sums_trained_tokens_only(policy_of):
    policy = policy_of()
    rollouts = written(policy, ask(2), TEXTS)
    arguments = {"estimator": "k1", "place": "reward"}
    recipe = Recipe(separation="answer_only", beta=0.3, group_size=4, anchor_args=arguments)
    trained_BT = separate(policy, recipe, rollouts, False).trained_BT
    made = anchoring.prepare_anchor(
        recipe, policy, Memory.fresh(4), rollouts, 1, ask(2), trained_BT
    )
    found_BT = made.credit()
    with torch.no_grad(), policy.reference():
        base_BT = read(policy, rollouts).logprobs_entropies()[0]
    k1_BT = (rollouts.logprobs_BT - base_BT) * trained_BT
    for b in range(8):
        group = [i for i in range(b // 4 * 4, b // 4 * 4 + 4) if i != b]
        for t in range(rollouts.T):
            to_go = k1_BT[b, t:].sum() - sum(k1_BT[i, t:].sum() for i in group) / 3
            expected = -0.3 * to_go * trained_BT[b, t]
            torch.testing.assert_close(found_BT[b, t], expected, atol=1e-5, rtol=1e-4)
    assert found_BT[trained_BT].abs().min() > 0


# --- a game of two thoughts and two answers -------------------------------------------------------

REWARD = torch.tensor(
    [[0.3, 0.78], [1.0, 0.78]]
)  # thought x answer; the second answer is a shortcut
END = 9


def test_in_a_small_game_the_masked_gradient_is_that_of_the_expected_reward():
    """All four completions, weighed by their probability: the answer is the environment's noise."""
    thoughts = torch.tensor([0.2, -0.4], requires_grad=True)
    answers = torch.tensor([[0.5, -0.3], [-0.2, 0.9]], requires_grad=True)
    outcomes = list(itertools.product(range(2), range(2)))
    tokens_BT = torch.tensor([[tau, END, y] for tau, y in outcomes])
    mask_BT = torch.ones(4, 3, dtype=torch.bool)
    thinking_BT = thinking(tokens_BT == END, mask_BT)
    log_thought, log_answer = thoughts.log_softmax(0), answers.log_softmax(1)
    logprobs_BT = torch.stack(
        [
            torch.stack([log_thought[tau], torch.tensor(0.0), log_answer[tau, y]])
            for tau, y in outcomes
        ]
    )
    chance_B1 = logprobs_BT.detach().sum(1, keepdim=True).exp()
    reward_B1 = torch.tensor([[float(REWARD[tau, y])] for tau, y in outcomes])
    value = (log_thought.exp()[:, None] * log_answer.exp() * REWARD).sum()
    wanted = torch.autograd.grad(value, (thoughts, answers), retain_graph=True)
    for name, late, parts in (
        ("start", False, (1, 0)), ("start", True, (1, 1)), ("answer_only", False, (0, 1)),
        ("thinking_only", False, (1, 0)), ("joint", False, (1, 1)), ("reversed", False, (0, 1)),
    ):  # fmt: skip
        trained_BT = SEPARATIONS[name](thinking_BT, mask_BT & ~thinking_BT, late)
        for baseline in (0.0, 0.7):  # any, as long as it does not look at the completion
            loss_BT = SURROGATES["reinforce"](logprobs_BT, None, reward_B1 - baseline, trained_BT)
            weights_BT = AGGREGATIONS["sum"](trained_BT.float(), 3) * 4 * chance_B1
            found = torch.autograd.grad(
                (weights_BT * loss_BT).sum(), (thoughts, answers), retain_graph=True
            )
            for part, mine, exact in zip(parts, found, wanted, strict=True):
                torch.testing.assert_close(mine, -exact * part, atol=1e-6, rtol=1e-5)
                assert part or torch.count_nonzero(mine) == 0
    assert wanted[0].abs().max() > 0.01 and wanted[1].abs().max() > 0.01


# --- the switch in a run --------------------------------------------------------------------------


def stages(reports):
    return [(r.metrics["train/trains_thinking"], r.metrics["train/trains_answer"]) for r in reports]


FIRST, BOTH = (1.0, 0.0), (1.0, 1.0)


def test_the_switch_comes_at_its_share_of_the_run_and_opens_the_answers(toy):
    recipe = toy.replace(separation="start", separation_args={"share": 0.5}, steps=4)
    state = prepare(recipe)
    reports = [train_step(state, recipe) for _ in range(4)]
    assert stages(reports) == [FIRST, FIRST, BOTH, BOTH]
    shares = [report.metrics["train/trained_share"] for report in reports]
    # The four texts: 7 + 7 + 5 + 4 of thinking, 2 + 4 + 2 of answer; those of the malformed one wait too.
    assert shares[:2] == [pytest.approx(23 / 31)] * 2 and shares[2:] == [1.0, 1.0]


@pytest.mark.parametrize("rule", ["step", "flat"])
def test_a_resumed_run_repeats_the_switch(toy, tmp_path, rule):
    given = (
        {"switch": "step", "step": 3} if rule == "step" else {"switch": "flat", "tolerance": 0.1}
    )
    scores = {1: 0.5, 2: 0.55, 3: 0.4, 4: 0.9}  # flat at 2 and 3
    recipe = toy.replace(separation="start", separation_args=given, cross_samples=1, steps=5)
    state, folder, reports = prepare(recipe), RunFolder(tmp_path), []

    def go(state, until):
        while state.step < until:
            reports.append(train_step(state, recipe))
            if state.step in scores:
                note_post_pre(state.memory, recipe, state.step, scores[state.step])

    go(state, 2)
    checkpoint = folder.write_checkpoint(state, recipe)
    go(state, 5)
    assert stages(reports) == [FIRST] * 3 + [BOTH] * 2
    again = prepare(read_checkpoint_recipe(checkpoint, list(toy.rewards)[:1]))
    restore(again, checkpoint)
    reports.clear()
    go(again, 5)
    assert stages(reports) == [FIRST] + [BOTH] * 2
    assert torch.equal(adapter(state), adapter(again))
    assert state.memory.to_dict() == again.memory.to_dict()


def test_a_live_change_lands_at_the_next_step_and_is_logged(toy, tmp_path):
    def change(run, record):
        if record["step"] == 2:
            run.update(separation="thinking_only")

    run = train(
        toy.replace(steps=4, eval_every=4), folder=tmp_path / "a", blocking=True, listeners=[change]
    )
    told = run.metrics["train/trains_answer"]
    assert told[[1, 2]].tolist() == [1.0, 1.0] and told[[3, 4]].tolist() == [0.0, 0.0]
    (event,) = [event for event in run.events.to_dict("records") if event["kind"] == "update"]
    assert event["step"] == 3 and "separation joint → thinking_only" in event["text"]


def test_rollout_files_say_which_tokens_are_thinking_and_which_are_trained(toy, tmp_path):
    recipe = toy.replace(separation="answer_only")
    state = prepare(recipe)
    report = train_step(state, recipe)
    table = rollout_table(report, state).to_pydict()
    assert [len(row) for row in table["trained"]] == list(LENGTHS) * 3
    assert [sum(row) for row in table["thinking"]] == list(THOUGHTS) * 3
    assert table["trained"][0] == [False] * 7 + [True] * 2
    assert table["trained"][3] == [True] * 4


def test_beside_the_initial_answerer_not_even_a_references_answers_are_trained(policy_of):
    """An anchor on the reference's own completions would train the answers all the same."""
    policy = policy_of()
    drawn = written(policy, ask(1), TEXTS)
    for name in ("joint", "start", "thinking_only"):
        recipe = Recipe(answerer="initial", separation=name)
        parts = separate(policy, recipe, drawn, late=True)
        assert torch.equal(parts.trained_BT, parts.thinking_BT), name
