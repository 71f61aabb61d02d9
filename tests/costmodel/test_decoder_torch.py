"""What autograd really keeps of a decoder layer, beside what the formulas say of it."""

from __future__ import annotations

import pytest

from schedverify.costmodel.decoder import Decoder, Training, layer_costs

torch = pytest.importorskip("torch", reason="torch is not installed")
functional = torch.nn.functional
pytestmark = pytest.mark.slow
TRAINING = Training(32, 2, dtype="fp32")


class SwiGlu(torch.autograd.Function):
    """The fused product of a gate: keeps its two inputs, as fused kernels do."""

    @staticmethod
    def forward(context, gate, up):  # type: ignore[no-untyped-def]
        context.save_for_backward(gate, up)
        return functional.silu(gate) * up

    @staticmethod
    def backward(context, gradient):  # type: ignore[no-untyped-def]
        raise NotImplementedError


def network(x, shape: Decoder, weights: list):  # type: ignore[no-untyped-def]
    first, second, gate = (weights.pop() for _ in range(3))
    up = functional.linear(x, first)
    inner = SwiGlu.apply(functional.linear(x, gate), up) if shape.gated else functional.gelu(up)
    return functional.linear(inner, second)


def layer(x, shape: Decoder, weights: list):  # type: ignore[no-untyped-def]
    """Run one layer on ``x`` (batch, sequence, hidden); attention is fused."""
    size = shape.hidden // shape.heads
    norm = functional.layer_norm(x, (shape.hidden,))
    query, key, value = (functional.linear(norm, weights.pop()) for _ in range(3))
    heads = [t.unflatten(-1, (-1, size)).transpose(1, 2) for t in (query, key, value)]
    several = shape.heads != (shape.kv_heads or shape.heads)
    mixed = functional.scaled_dot_product_attention(*heads, is_causal=True, enable_gqa=several)
    x = x + functional.linear(mixed.transpose(1, 2).flatten(2), weights.pop())
    norm = functional.layer_norm(x, (shape.hidden,))
    if shape.experts == 1:
        return x + network(norm, shape, weights)
    score = functional.linear(norm, weights.pop())
    first = network(norm.clone(), shape, list(weights))
    second = network(norm.clone(), shape, list(weights))
    return x + first * score[..., :1] + second * score[..., 1:2]


def kept_by(shape: Decoder) -> int:
    """Return the bytes of the tensors that autograd keeps of one layer, weights left out, each storage once."""
    torch.manual_seed(0)
    hidden, keys = shape.hidden, shape.key_width
    rows = [(shape.ffn_width, hidden), (hidden, shape.ffn_width), (shape.ffn_width, hidden)]
    rows += [(shape.experts, hidden)] if shape.experts > 1 else []
    rows += [(hidden, hidden), (keys, hidden), (keys, hidden), (hidden, hidden)]
    weights = [torch.randn(row, requires_grad=True) for row in rows]
    known = {weight.untyped_storage().data_ptr() for weight in weights}
    kept: dict[int, int] = {}
    alive = []

    def keep(tensor):  # type: ignore[no-untyped-def]
        storage = tensor.untyped_storage()
        alive.append(tensor)
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    x = torch.randn(TRAINING.microbatch_size, TRAINING.sequence, hidden, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        alive.append(layer(x, shape, weights))
    return sum(kept.values())


@pytest.mark.parametrize(
    "shape",
    [
        Decoder(1, 256, 4, 100),
        Decoder(1, 256, 4, 100, ffn=640, gated=True),
        Decoder(1, 256, 8, 100, kv_heads=2, ffn=640, gated=True),
        Decoder(1, 256, 4, 100, ffn=640, gated=True, experts=2, top_k=2),
    ],
    ids=["plain", "gated", "grouped keys", "experts"],
)
def test_autograd_keeps_what_the_formula_says(shape: Decoder) -> None:
    """Norms keep two numbers a token, attention one a head, experts their scores; the formulas leave these out."""
    measured, formula = kept_by(shape), layer_costs.layer_activation(shape, TRAINING)
    assert formula <= measured <= formula * 1.02
