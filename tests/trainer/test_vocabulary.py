"""Chunked log-probs, entropies and divergences are those of the whole vocabulary, and so are their gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from shoal_workers.trainer import vocabulary
from shoal_workers.trainer.vocabulary import Head, Reference, chunk_tokens, vocabulary_terms

TOKENS, WIDTH, WORDS = 20, 16, 50


def _plain(hidden: Tensor, head: Head, temperature: float) -> Tensor:
    logits = (hidden @ head.weight.T + (0 if head.bias is None else head.bias)) * head.scale
    if head.cap:
        logits = head.cap * torch.tanh(logits / head.cap)
    return torch.log_softmax(logits / temperature, -1)


def _close(one: Tensor, other: Tensor) -> bool:
    """Within rounding of float32 of values of order 1 to 10."""
    return bool((one - other).detach().abs().max() <= 1e-6 * max(1.0, float(other.detach().abs().max())))


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize(("cap", "scale", "temperature"), [(0, 1, 1), (5, 1, 0.7), (0, 0.3, 2), (3, 2, 1)])
def test_chunks_are_the_whole(
    monkeypatch: pytest.MonkeyPatch, cap: float, scale: float, temperature: float, biased: bool
) -> None:
    monkeypatch.setattr(vocabulary, "CPU_CHUNK_BYTES", 4 * WORDS * 3)
    random = torch.Generator().manual_seed(0)
    hidden = torch.randn(TOKENS, WIDTH, generator=random).requires_grad_()
    weight = (torch.randn(WORDS, WIDTH, generator=random) / 4).requires_grad_()
    bias = torch.randn(WORDS, generator=random).requires_grad_() if biased else None
    head = Head(weight, bias, scale, cap)
    assert chunk_tokens(weight) == 3
    reference = Reference(
        torch.randn(TOKENS, WIDTH, generator=random),
        Head(torch.randn(WORDS, WIDTH, generator=random) / 4, None, scale, cap),
    )
    tokens = torch.randint(0, WORDS, (TOKENS,), generator=random)
    factors = torch.randn(3, TOKENS, generator=random) / TOKENS  # as the shares of a mean are
    leaves = [leaf for leaf in (hidden, weight, bias) if leaf is not None]

    logs, other = _plain(hidden, head, temperature), _plain(reference.hidden, reference.head, temperature)
    expected = (
        logs.gather(1, tokens[:, None])[:, 0],
        -(logs.exp() * logs).sum(1),
        (logs.exp() * (logs - other)).sum(1),
    )
    wanted = torch.autograd.grad(sum((f * e).sum() for f, e in zip(factors, expected, strict=True)), leaves)
    terms = vocabulary_terms(hidden, head, tokens, temperature, reference)
    assert terms.divergence is not None
    given = (terms.logprobs, terms.entropy, terms.divergence)
    got = torch.autograd.grad(sum((f * g).sum() for f, g in zip(factors, given, strict=True)), leaves)
    for one, whole in zip([*given, *got], [*expected, *wanted], strict=True):
        assert _close(one, whole)
    # One term alone takes another way through the backward pass.
    again = vocabulary_terms(hidden, head, tokens, temperature, reference)
    for index, value in enumerate((again.logprobs, again.entropy, again.divergence)):
        assert value is not None
        alone = torch.autograd.grad((factors[index] * value).sum(), leaves, retain_graph=True)
        logs, other = _plain(hidden, head, temperature), _plain(reference.hidden, reference.head, temperature)
        part = (
            logs.gather(1, tokens[:, None])[:, 0],
            -(logs.exp() * logs).sum(1),
            (logs.exp() * (logs - other)).sum(1),
        )
        expected_alone = torch.autograd.grad((factors[index] * part[index]).sum(), leaves)
        for one, whole in zip(alone, expected_alone, strict=True):
            assert _close(one, whole)


def test_gradients_of_bfloat16_weights_add_up_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabulary, "CPU_CHUNK_BYTES", 4 * WORDS)
    random = torch.Generator().manual_seed(0)
    hidden = torch.randn(2000, WIDTH, generator=random).bfloat16()
    weight = (torch.randn(WORDS, WIDTH, generator=random) / 4).bfloat16().requires_grad_()
    tokens = torch.zeros(2000, dtype=torch.long)
    exact = weight.detach().float().requires_grad_()
    _plain(hidden.float(), Head(exact), 1.0)[:, 0].sum().backward()  # type: ignore[no-untyped-call]
    vocabulary_terms(hidden, Head(weight), tokens, 1.0).logprobs.sum().backward()  # type: ignore[no-untyped-call]
    assert exact.grad is not None
    assert weight.grad is not None
    assert float((weight.grad.float() - exact.grad).norm() / exact.grad.norm()) < 5e-3


def test_no_gradient_is_computed_for_a_frozen_head() -> None:
    hidden = torch.randn(4, WIDTH, requires_grad=True)
    weight = torch.randn(WORDS, WIDTH)
    vocabulary_terms(hidden, Head(weight), torch.arange(4), 1.0).logprobs.sum().backward()  # type: ignore[no-untyped-call]
    assert (weight.grad, hidden.grad is not None) == (None, True)
