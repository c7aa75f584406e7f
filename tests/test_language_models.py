"""Causal language models: shifted views, padding, and the loss that transformers gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import require_peer

import sparse_xent as sx

IGNORED = -100
LOSS = sx.SparseCategoricalCrossentropy(from_logits=True, ignore_class=IGNORED)
TINY: dict[str, dict[str, Any]] = {
    "GPT2": {"n_layer": 1, "n_head": 2, "n_embd": 16, "n_positions": 12},
    "Llama": {
        "num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 16,
        "intermediate_size": 24, "max_position_embeddings": 12,
    },
}  # fmt: skip


@pytest.fixture(params=TINY)
def model(request: pytest.FixtureRequest) -> Any:
    """A tiny model of random weights, whose logits tell words apart; nothing is downloaded."""
    torch, transformers = require_peer("torch"), require_peer("transformers")
    torch.manual_seed(0)
    ends = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    config = getattr(transformers, f"{request.param}Config")(
        vocab_size=53, **ends, **TINY[request.param]
    )
    name = {"GPT2": "GPT2LMHeadModel", "Llama": "LlamaForCausalLM"}[request.param]
    made = getattr(transformers, name)(config).eval()
    with torch.no_grad():
        made.get_output_embeddings().weight.mul_(40)
    return made


def tokens() -> Any:
    """Five sequences: whole, padded twice, of one token, and of padding alone."""
    y = np.random.default_rng(3).integers(53, size=(5, 11))
    y[1, 7:] = y[2, :4] = y[3, 1:] = y[4] = IGNORED
    return y


def test_the_loss_is_that_of_transformers(model: Any) -> None:
    torch, y = require_peer("torch"), tokens()
    ids = torch.tensor(np.where(y == IGNORED, 0, y))
    answer = model(input_ids=ids, labels=torch.tensor(y))
    x = answer.logits.detach().numpy()
    np.testing.assert_allclose(LOSS(y[:, 1:], x[:, :-1]), answer.loss.item(), rtol=1e-6)
    assert answer.loss.item() > 4  # words are told apart, and it is no log(53)
    each = sx.loss_sparse_categorical_crossentropy(
        y[:, 1:], x[:, :-1], from_logits=True, ignore_class=IGNORED
    )
    for sequence in range(len(y)):
        one = slice(sequence, sequence + 1)
        theirs = model(input_ids=ids[one], labels=torch.tensor(y[one])).loss.item()
        kept = (y[sequence, 1:] != IGNORED).sum()
        if kept:
            np.testing.assert_allclose(each[sequence].sum() / kept, theirs, rtol=1e-5)
        else:  # theirs divides 0 by 0
            assert np.isnan(theirs)
            assert LOSS(y[one, 1:], x[one, :-1]) == 0


def test_the_gradient_is_that_of_transformers(model: Any) -> None:
    torch, y = require_peer("torch"), tokens()
    answer = model(input_ids=torch.tensor(np.where(y == IGNORED, 0, y)), labels=torch.tensor(y))
    (theirs,) = torch.autograd.grad(answer.loss, answer.logits)
    x = answer.logits.detach().numpy()
    gradient = np.zeros_like(x)
    value, out = LOSS.value_and_grad(y[:, 1:], x[:, :-1], out=gradient[:, :-1])
    assert np.shares_memory(out, gradient)
    assert value == LOSS(y[:, 1:], x[:, :-1])
    np.testing.assert_allclose(gradient, theirs.numpy(), rtol=1e-4, atol=1e-9)


def test_padding_alone_costs_nothing_and_has_perplexity_1() -> None:
    y, x = np.full((2, 7), IGNORED), np.full((2, 7, 9), np.nan, np.float32)
    value, gradient = LOSS.value_and_grad(y[:, 1:], x[:, :-1])
    assert value == 0
    assert not gradient.any()
    state = sx.partial(y[:, 1:], x[:, :-1], from_logits=True, ignore_class=IGNORED)
    assert (state.count, state.result(), state.perplexity) == (0, 0, 1)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_shifted_views_give_the_bits_of_copies(dtype: str) -> None:
    y = np.random.default_rng(3).integers(53, size=(5, 11))
    y[1, 7:] = IGNORED
    x = np.random.default_rng(4).normal(size=(5, 11, 53)).astype(dtype)
    views, copies = (y[:, 1:], x[:, :-1]), (y[:, 1:].copy(), x[:, :-1].copy())
    value, gradient = LOSS.value_and_grad(*views)
    expected, wanted = LOSS.value_and_grad(*copies)
    assert value == expected
    np.testing.assert_array_equal(gradient, wanted)
