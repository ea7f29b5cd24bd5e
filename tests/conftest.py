"""Toy models for the tests: random weights, made here, nothing downloaded."""

import pytest
import torch


def pytest_configure(config):
    """With -n, hand files out in their order, where the long ones are first, not by their number of tests.

    The browser's files have one long test each: last of all, they would run alone and after one another.
    """
    config.option.loadscopereorder = False


def one_layer(tokenizer, **fields):
    """A random one-layer model for `tokenizer`, the same every time."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        **fields,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LlamaForCausalLM(config)


def saved(model, tokenizer, folder):
    """The path of `folder`, which then holds both."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


PEAKED = {"tie_word_embeddings": True, "initializer_range": 0.2}


@pytest.fixture(scope="session")
def toy_world(tmp_path_factory):
    """A folder with a random one-layer model that speaks the tiny world's vocabulary."""
    from workbench.tiny.tokenizer import build_tokenizer

    tokenizer = build_tokenizer()
    model = one_layer(tokenizer, max_position_embeddings=128, **PEAKED)
    return saved(model, tokenizer, tmp_path_factory.mktemp("toy") / "toy-model")


@pytest.fixture(scope="session")
def toy_scribe(tmp_path_factory):
    """A folder with a random one-layer model in the vocabulary of lines.

    It never thinks: it writes some words, a mark now and then, and ends after a handful.
    """
    from workbench.tasks.lexicon import WORDS
    from workbench.tiny.tokenizer import LINES_WORDS, build_tokenizer

    tokenizer = build_tokenizer(LINES_WORDS)
    model = one_layer(
        tokenizer, max_position_embeddings=256, tie_word_embeddings=False, initializer_range=0.1
    )
    wanted = {f" {word}": 0.0 for word in WORDS} | {tokenizer.eos_token: 0.9, ".": 0.3}
    with torch.no_grad():
        # One coordinate of the stream is the same for all tokens, so that its column in the head is a bias.
        model.model.embed_tokens.weight *= 10
        model.model.embed_tokens.weight[:, 0] = 6.0
        model.lm_head.weight *= 2
        model.lm_head.weight[:, 0] = -4.0
        for token, bias in wanted.items():
            model.lm_head.weight[tokenizer.convert_tokens_to_ids(token), 0] = bias
    return saved(model, tokenizer, tmp_path_factory.mktemp("toy") / "toy-scribe")


@pytest.fixture(scope="session")
def spelling_world(tmp_path_factory):
    """tokens -> folder of a random one-layer model with these tokens beside bytes and a few merges.

    Without `<think>` and `</think>` among them it spells the tags, and how depends on the neighbours: `>`
    joins a line break or a 7 after it.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from workbench.tiny.tokenizer import BOS, CHAT_TEMPLATE, END, PAD, ROLES

    folders = {}

    def build(*tokens):
        if tokens in folders:
            return folders[tokens]
        merges = [("<", "/"), ("t", "h"), ("th", "i"), ("thi", "n"), ("thin", "k"), (">", "Ċ")]
        merges.append((">", "7"))
        known = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *(a + b for a, b in merges)]
        core = Tokenizer(models.BPE({text: number for number, text in enumerate(known)}, merges))
        core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        core.decoder = decoders.ByteLevel()
        core.add_special_tokens([AddedToken(t, special=True) for t in (PAD, BOS, END, *ROLES)])
        core.add_tokens([AddedToken(text, special=False, normalized=False) for text in tokens])
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=core,
            pad_token=PAD,
            bos_token=BOS,
            eos_token=END,
            chat_template=CHAT_TEMPLATE,
        )
        model = one_layer(tokenizer, max_position_embeddings=256, **PEAKED)
        folders[tokens] = saved(model, tokenizer, tmp_path_factory.mktemp("spelling"))
        return folders[tokens]

    return build


def digits(rollouts, task):
    """Share of a completion's tokens that are digits: a reward that a random model earns at once."""
    share = [sum(c.isdigit() for c in text) / (len(text) + 1) for text in rollouts.completions]
    return torch.tensor(share).view(rollouts.P, rollouts.G)


@pytest.fixture
def toy_recipe(toy_world):
    """A run of a few quick steps that has signal from the start."""
    from workbench.recipe import Recipe

    return Recipe(
        model=toy_world,
        rewards={digits: 1.0, "correct": 0.0, "length": 0.0},
        prompts_per_step=3,
        group_size=4,
        max_new_tokens=8,
        steps=6,
        learning_rate=1e-2,
        eval_every=3,
        eval_prompts=2,
        eval_samples=4,
        checkpoint_every=2,
        rollouts_every=2,
        lora_rank=4,
    )


# Peaked distributions (a large initializer_range) make wrong positions and masks show in the tokens.
_SMALL = {
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,
}
_FAMILIES = {
    "llama": {"tie_word_embeddings": True},
    "qwen2": {"tie_word_embeddings": True},
    "qwen3": {"tie_word_embeddings": False},
    "gemma2": {"sliding_window": 6, "query_pre_attn_scalar": 16},
    "gemma3_text": {"sliding_window": 6, "query_pre_attn_scalar": 16},
}


@pytest.fixture(scope="session")
def toy_family(tmp_path_factory):
    """family -> folder of a random two-layer model of that architecture, in the tiny vocabulary."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from workbench.tiny.tokenizer import build_tokenizer

    folders = {}

    def build(family):
        if family not in folders:
            folder = tmp_path_factory.mktemp(family)
            tokenizer = build_tokenizer()
            config = AutoConfig.for_model(
                family,
                vocab_size=len(tokenizer),
                pad_token_id=tokenizer.pad_token_id,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                **_SMALL,
                **_FAMILIES[family],
            )
            with torch.random.fork_rng():
                torch.manual_seed(1)
                AutoModelForCausalLM.from_config(config).save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            folders[family] = str(folder)
        return folders[family]

    return build


@pytest.fixture
def policy_of(toy_family):
    """(family, quantize) -> Policy whose adapter has been moved off zero."""
    from workbench.models import load_policy

    def build(family="llama", quantize="none", **settings):
        policy = load_policy(
            toy_family(family), quantize=quantize, lora_rank=4, device="cpu", **settings
        )
        move_adapter(policy)
        return policy

    return build


def move_adapter(policy, seed=0, scale=0.1):
    """Add random numbers to the adapter, so that it differs from the base."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, parameter in policy.trainable():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * scale)


@pytest.fixture(scope="session")
def qwen_1_5b(tmp_path_factory):
    """A folder with the config.json of Qwen2.5-1.5B's shape, and no weights."""
    import json

    config = {
        "model_type": "qwen2",
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
        "tie_word_embeddings": True,
        "max_position_embeddings": 131072,
    }
    folder = tmp_path_factory.mktemp("shape") / "qwen2.5-1.5b"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)
