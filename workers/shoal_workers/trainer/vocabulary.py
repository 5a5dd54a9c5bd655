"""What a loss needs of the policy's distribution over its vocabulary, with no tensor of tokens x vocabulary ever whole.

The logits of N tokens over V words are computed from hidden states [N, D] a chunk of tokens at a time, once forward and
once more backward (a fused linear cross-entropy: Hsu et al., Liger Kernel, arXiv 2410.10989; here in plain PyTorch, for
any device). Memory beside the weights: a few chunks, and the gradient of the output layer [V, D].
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

CPU_CHUNK_BYTES = 32 << 20
"""Of float32 logits at once: far below a batch's activations, and enough rows for matrices at full speed."""
ACCELERATOR_CHUNK_BYTES = 512 << 20


@dataclass(frozen=True, slots=True)
class Head:
    """The output layer: logits = cap * tanh(scale * (h W' + b) / cap), without tanh where `cap` is 0.

    `weight` [V, D], `bias` [V] or None. Models differ in scale (Granite, Cohere) and cap (Gemma) alone.
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    cap: float = 0.0

    def logits(self, hidden: Tensor) -> Tensor:
        """Float32 logits [n, V] of hidden states [n, D]: the product in the weights' type, as engines compute it."""
        logits = torch.nn.functional.linear(hidden, self.weight, self.bias).float()
        if self.scale != 1.0:
            logits = logits.mul_(self.scale)
        return logits.div_(self.cap).tanh_().mul_(self.cap) if self.cap else logits

    def chain(self, gradient: Tensor, logits: Tensor) -> Tensor:
        """From the gradient of the logits [n, V], in place, to that of h W' + b."""
        if self.cap:
            gradient = gradient.mul_(logits.div_(self.cap).square_().neg_().add_(1.0))
        return gradient.mul_(self.scale) if self.scale != 1.0 else gradient


@dataclass(frozen=True, slots=True)
class Terms:
    """Of N tokens: their log-probs [N], entropies [N] and, where a reference was given, KL(policy || reference) [N].

    All are float32, in nats, of the whole vocabulary at the temperature.
    """

    logprobs: Tensor
    entropy: Tensor
    divergence: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Reference:
    """The distributions that the policy is compared with: hidden states [N, D] under other weights, and their head."""

    hidden: Tensor
    head: Head


def vocabulary_terms(
    hidden: Tensor, head: Head, tokens: Tensor, temperature: float, reference: Reference | None = None
) -> Terms:
    """The terms of `tokens` [N] at the hidden states [N, D] before them; gradients reach `hidden` and the head."""
    chunk = chunk_tokens(head.weight)
    apply: Any = _VocabularyTerms.apply
    parts = (head.weight, head.bias)
    logprobs, entropy, divergence = apply(hidden, *parts, tokens, head, temperature, reference, chunk)
    return Terms(logprobs, entropy, divergence if reference is not None else None)


def chunk_tokens(weight: Tensor) -> int:
    """Tokens whose logits are computed at once by a head [V, D]."""
    limit = CPU_CHUNK_BYTES if weight.device.type == "cpu" else ACCELERATOR_CHUNK_BYTES
    return max(1, limit // (4 * int(weight.shape[0])))


class _VocabularyTerms(torch.autograd.Function):
    """See the module. Backward recomputes each chunk's logits: keeping them is what the module is there to avoid."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        tokens: Tensor,
        head: Head,
        temperature: float,
        reference: Reference | None,
        chunk: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        size = len(tokens)
        normalizer, logprobs, entropy, divergence = (
            torch.zeros(size, dtype=torch.float32, device=hidden.device) for _ in range(4)
        )
        for part in _parts(size, chunk):
            logs, _ = _log_distribution(head, hidden[part], temperature, normalizer[part])
            logprobs[part] = _picked(logs, tokens[part])
            probabilities = logs.exp()
            entropy[part] = -torch.linalg.vecdot(probabilities, logs)
            if reference is not None:
                other, _ = _log_distribution(reference.head, reference.hidden[part], temperature)
                divergence[part] = torch.linalg.vecdot(probabilities, logs.sub_(other))
        ctx.save_for_backward(hidden, weight, bias, tokens, normalizer, entropy, divergence)
        ctx.head, ctx.temperature, ctx.reference, ctx.chunk = head, temperature, reference, chunk
        ctx.set_materialize_grads(False)
        return logprobs, entropy, divergence

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, tokens, normalizer, entropy, divergence = ctx.saved_tensors
        head = Head(weight, bias, ctx.head.scale, ctx.head.cap)
        to_hidden, to_weight, to_bias = ctx.needs_input_grad[:3]
        of_hidden = torch.zeros_like(hidden) if to_hidden else None
        # Sums over chunks in float32: in bfloat16 the small parts of a large sum would be lost.
        of_weight = torch.zeros_like(weight, dtype=torch.float32) if to_weight else None
        of_bias = torch.zeros_like(bias, dtype=torch.float32) if to_bias and bias is not None else None
        for part in _parts(len(tokens), ctx.chunk):
            states = hidden[part]
            logs, logits = _log_distribution(head, states, ctx.temperature, normalizer[part], known=True)
            other = None
            if ctx.reference is not None and gradients[2] is not None:
                other, _ = _log_distribution(ctx.reference.head, ctx.reference.hidden[part], ctx.temperature)
            chunk = _Gradients(*(None if gradient is None else gradient[part] for gradient in gradients))
            gradient = chunk.of_logits(logs, other, tokens[part], entropy[part], divergence[part])
            gradient = head.chain(gradient.div_(ctx.temperature), logits).to(weight.dtype)
            if of_hidden is not None:
                of_hidden[part] = gradient @ weight
            if of_weight is not None:
                if of_weight.dtype == gradient.dtype:
                    of_weight.addmm_(gradient.T, states)
                else:
                    of_weight.add_(gradient.T @ states)
            if of_bias is not None:
                of_bias += gradient.float().sum(0)
        given = None if of_weight is None else of_weight.to(weight.dtype)
        return of_hidden, given, None if of_bias is None else of_bias.to(bias.dtype), *([None] * 5)


@dataclass(frozen=True, slots=True)
class _Gradients:
    """The loss's gradients [n] by the log-probs, entropies and divergences of a chunk; None where it has none."""

    logprobs: Tensor | None
    entropy: Tensor | None
    divergence: Tensor | None

    def of_logits(
        self, logs: Tensor, other: Tensor | None, tokens: Tensor, entropy: Tensor, divergence: Tensor
    ) -> Tensor:
        """The gradient [n, V] by logits over temperature; uses up `logs`.

        With p = exp(logs): d logprob = one-hot - p; d entropy = -p (logs + H); d KL = p (logs - other - KL).
        """
        probabilities = logs.exp()
        total = torch.zeros_like(logs) if self.entropy is not None or other is not None else None
        if total is not None and self.entropy is not None:
            total.addcmul_(logs + entropy[:, None], self.entropy[:, None], value=-1)
        if total is not None and other is not None and self.divergence is not None:
            total.addcmul_(logs.sub_(other).sub_(divergence[:, None]), self.divergence[:, None])
        if self.logprobs is None:
            return probabilities.mul_(total) if total is not None else probabilities.zero_()
        if total is None:
            result = probabilities.mul_(self.logprobs[:, None]).neg_()
        else:
            result = probabilities.mul_(total.sub_(self.logprobs[:, None]))
        return result.scatter_add_(1, tokens[:, None], self.logprobs[:, None])


def _log_distribution(
    head: Head, hidden: Tensor, temperature: float, normalizer: Tensor | None = None, known: bool = False
) -> tuple[Tensor, Tensor]:
    """Log-probs [n, V] at the temperature, and the logits (the same memory where the head has no cap).

    `normalizer` [n] gets the log of the sums, or has them where they are `known`.
    """
    logits = head.logits(hidden)
    logs = logits / temperature if head.cap else logits.div_(temperature)
    if not known:
        sums = torch.logsumexp(logs, dim=-1)
        if normalizer is not None:
            normalizer.copy_(sums)
    else:
        assert normalizer is not None
        sums = normalizer
    return logs.sub_(sums[:, None]), logits


def _picked(logs: Tensor, tokens: Tensor) -> Tensor:
    return logs.gather(-1, tokens[:, None]).squeeze(-1)


def _parts(size: int, chunk: int) -> Iterator[slice]:
    for start in range(0, size, chunk):
        yield slice(start, min(size, start + chunk))
