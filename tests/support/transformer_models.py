"""Models of transformers from small configurations, and the same modules as blocks that a pipeline can cut.

A block takes the tensors of the one before it, and returns what it changed of them and what those behind it still need:
masks, rotary tables and position biases travel with the hidden states. ``whole`` computes the logits as transformers
itself does, with the same weights. The library is imported where it is used: it takes seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional

WORDS, PAD = 50, 0
Inputs = tuple[Any, ...]


class Size(NamedTuple):
    """Of the hidden states: their width, the tokens of a row."""

    width: int = 16
    length: int = 7


SMALL = Size()


class Case(NamedTuple):
    """A model with one way to cut it."""

    model: Any
    blocks: list[nn.Module]
    whole: Callable[..., Any]
    """Takes the inputs of a batch and returns the logits, by the model's own forward."""


class Adapter(nn.Module):
    """A block: takes a tuple, or its members."""

    def forward(self, *given: Any) -> Any:
        return self.step(*(given[0] if len(given) == 1 and isinstance(given[0], tuple) else given))


def masked(tokens: Any) -> Any:
    """Return the mask of the tokens that are no padding, shape ``(rows, 1, 1, length)``."""
    return (tokens != PAD)[:, None, None, :]


def causal(tokens: Any) -> Any:
    """Return the mask of what each token may see, shape ``(rows, 1, length, length)``; each sees itself."""
    length = tokens.shape[1]
    lower, own = torch.ones(length, length, dtype=torch.bool).tril(), torch.eye(length, dtype=torch.bool)
    return masked(tokens) & lower | own


def as_bias(mask: Any, dtype: Any) -> Any:
    """Return a mask as numbers that are added to scores."""
    return torch.zeros(mask.shape, dtype=dtype).masked_fill(~mask, torch.finfo(dtype).min)


# GPT-2


class GPT2Begin(Adapter):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.wte, self.wpe, self.drop = model.transformer.wte, model.transformer.wpe, model.transformer.drop

    def step(self, tokens: Any) -> Inputs:
        return self.drop(self.wte(tokens) + self.wpe(torch.arange(tokens.shape[1]))), causal(tokens)


class GPT2Layer(Adapter):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def step(self, hidden: Any, mask: Any) -> Inputs:
        return self.layer(hidden, attention_mask=mask), mask


class End(Adapter):
    """The last norm and the head."""

    def __init__(self, norm: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.norm, self.head = norm, head

    def step(self, hidden: Any, *_: Any) -> Any:
        return self.head(self.norm(hidden))


def gpt2(size: Size, *, tied: bool) -> Case:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=WORDS, n_positions=size.length, n_embd=size.width, n_layer=3, n_head=2, tie_word_embeddings=tied,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=1, eos_token_id=1, pad_token_id=PAD,
    )  # fmt: skip
    model = GPT2LMHeadModel(config)
    body = model.transformer
    blocks = [GPT2Begin(model), *map(GPT2Layer, body.h), End(body.ln_f, model.lm_head)]
    return Case(model, blocks, lambda tokens: model(tokens, attention_mask=causal(tokens), use_cache=False).logits)


# Llama


class LlamaBegin(Adapter):
    """Makes the rotary tables and a mask of numbers, which cross beside the hidden states."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.embed, self.rotary = model.model.embed_tokens, model.model.rotary_emb

    def step(self, tokens: Any) -> Inputs:
        hidden = self.embed(tokens)
        cosine, sine = self.rotary(hidden, position_ids=torch.arange(tokens.shape[1])[None])
        return hidden, as_bias(causal(tokens), hidden.dtype), cosine, sine


class LlamaLayer(Adapter):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def step(self, hidden: Any, mask: Any, cosine: Any, sine: Any) -> Inputs:
        return self.layer(hidden, attention_mask=mask, position_embeddings=(cosine, sine)), mask, cosine, sine


def llama(size: Size) -> Case:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=WORDS, hidden_size=size.width, intermediate_size=2 * size.width, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=size.length, bos_token_id=1,
        eos_token_id=1, pad_token_id=None, tie_word_embeddings=False,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    blocks = [LlamaBegin(model), *map(LlamaLayer, model.model.layers), End(model.model.norm, model.lm_head)]

    def whole(tokens: Any) -> Any:
        return model(tokens, attention_mask=as_bias(causal(tokens), model.dtype), use_cache=False).logits

    return Case(model, blocks, whole)


# T5: the tokens of the decoder travel through the encoder


class T5EncoderBegin(Adapter):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.embed, self.drop = model.shared, model.encoder.dropout

    def step(self, tokens: Any, decoded: Any) -> Inputs:
        return self.drop(self.embed(tokens)), masked(tokens), decoded


class T5EncoderFirst(Adapter):
    """The layer that makes the position biases, which those behind it add too."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def step(self, hidden: Any, mask: Any, decoded: Any) -> Inputs:
        hidden, bias, _ = self.layer(hidden, mask)
        return hidden, mask, decoded, bias


class T5EncoderLayer(Adapter):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def step(self, hidden: Any, mask: Any, decoded: Any, bias: Any) -> Inputs:
        hidden, bias, _ = self.layer(hidden, mask, bias)
        return hidden, mask, decoded, bias


class T5DecoderBegin(Adapter):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.norm, self.encoder_drop = model.encoder.final_layer_norm, model.encoder.dropout
        self.embed, self.drop = model.shared, model.decoder.dropout

    def step(self, hidden: Any, mask: Any, decoded: Any, _: Any) -> Inputs:
        return self.drop(self.embed(decoded)), self.encoder_drop(self.norm(hidden)), mask, causal(decoded)


class T5DecoderFirst(Adapter):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def step(self, hidden: Any, encoded: Any, mask: Any, own: Any) -> Inputs:
        hidden, bias, crossed = self.layer(hidden, own, None, encoded, mask, None)
        return hidden, encoded, mask, own, bias, crossed


class T5DecoderLayer(Adapter):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def step(self, hidden: Any, encoded: Any, mask: Any, own: Any, bias: Any, crossed: Any) -> Inputs:
        hidden, bias, crossed = self.layer(hidden, own, bias, encoded, mask, crossed)
        return hidden, encoded, mask, own, bias, crossed


class T5End(Adapter):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.norm, self.drop, self.head = model.decoder.final_layer_norm, model.decoder.dropout, model.lm_head
        self.scale = model.model_dim**-0.5 if model.config.scale_decoder_outputs else 1.0

    def step(self, hidden: Any, *_: Any) -> Any:
        return self.head(self.drop(self.norm(hidden)) * self.scale)


def t5(size: Size) -> Case:
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        vocab_size=WORDS, d_model=size.width, d_kv=size.width // 2, d_ff=2 * size.width, num_heads=2, num_layers=2,
        num_decoder_layers=2, dropout_rate=0.0, relative_attention_num_buckets=8,
        pad_token_id=PAD, eos_token_id=1, decoder_start_token_id=PAD,
    )  # fmt: skip
    model = T5ForConditionalGeneration(config)
    first, *others = model.encoder.block
    first_decoder, *other_decoders = model.decoder.block
    encoder = [T5EncoderBegin(model), T5EncoderFirst(first), *map(T5EncoderLayer, others)]
    decoder = [T5DecoderBegin(model), T5DecoderFirst(first_decoder), *map(T5DecoderLayer, other_decoders)]

    def whole(tokens: Any, decoded: Any) -> Any:
        masks = {"attention_mask": (tokens != PAD).long(), "decoder_attention_mask": causal(decoded)}
        return model(tokens, decoder_input_ids=decoded, use_cache=False, **masks).logits

    return Case(model, [*encoder, *decoder, T5End(model)], whole)


MODELS: dict[str, Callable[[Size], Case]] = {
    "gpt2": partial(gpt2, tied=False),
    "gpt2-tied": partial(gpt2, tied=True),
    "llama": llama,
    "t5": t5,
}
TIED = ("gpt2-tied", "t5")
"""Those that share a weight between blocks."""


def made(name: str, size: Size = SMALL, seed: int = 5) -> Case:
    """Return a case with random weights of a seed: a new model has zeros and ones, which would hide much."""
    torch.manual_seed(seed)
    case = MODELS[name](size)
    with torch.no_grad():
        for weight in case.model.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.1)
    case.model.train()
    return case


def batch(name: str, rows: int, size: Size = SMALL, seed: int = 0) -> tuple[Any, Any]:
    """Return the inputs and targets of a step: rows of tokens, most of them padded at their ends."""
    numbers, length = torch.Generator().manual_seed(seed), size.length
    tokens = torch.randint(1, WORDS, (rows, length + 1), generator=numbers)
    lengths = torch.randint(length // 2, length + 1, (rows,), generator=numbers)
    inputs, target = tokens[:, :-1].masked_fill(torch.arange(length) >= lengths[:, None], PAD), tokens[:, 1:]
    if name != "t5":
        return inputs, target
    source = torch.randint(1, WORDS, (rows, length + 2), generator=numbers)
    return (source.masked_fill(torch.arange(length + 2) > lengths[:, None], PAD), inputs), target


def mean_loss(logits: Any, target: Any) -> Any:
    """Return the mean over all tokens, of which each row has as many."""
    return functional.cross_entropy(logits.flatten(0, 1), target.flatten())
