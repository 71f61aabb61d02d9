"""A small GPT of characters in four stages. A block also pauses, as if it ran on a device of its own."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

TEXT = (Path(__file__).parent / "sonnets.txt").read_text(encoding="ascii")
LETTERS = sorted(set(TEXT))
WIDTH, HEADS, CONTEXT, ROWS = 32, 4, 32, 2
BLOCKS = (1, 3, 2, 2)
"""How many blocks each stage has: they are uneven, as real cuts are."""


class Pause(torch.autograd.Function):
    """Passes a tensor on, and sleeps so many seconds on the way there and on the way back."""

    @staticmethod
    def forward(context: Any, tensor: Any, there: float, back: float) -> Any:
        """Sleep ``there`` seconds."""
        context.back = back
        time.sleep(there)
        return tensor.view_as(tensor)

    @staticmethod
    def backward(context: Any, gradient: Any) -> tuple[Any, None, None]:
        """Sleep ``back`` seconds."""
        time.sleep(context.back)
        return gradient, None, None


class Block(nn.Module):
    """Attention and a feed-forward part, and a pause in each of F, I and W."""

    def __init__(self, pause: float) -> None:
        super().__init__()
        self.pause = pause
        self.gain = nn.Parameter(torch.ones(WIDTH))
        self.attend, self.mix = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.think = nn.Sequential(
            nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH)
        )

    def forward(self, x: Any) -> Any:
        """Return what goes to the next block, of the same shape: rows, characters, width."""
        gain = Pause.apply(self.gain, 0.0, self.pause)  # its way back is part of W
        x = Pause.apply(x, self.pause, self.pause)
        heads = self.attend(nn.functional.layer_norm(x, (WIDTH,)) * gain).chunk(3, dim=-1)
        query, key, value = (each.unflatten(-1, (HEADS, -1)).transpose(1, 2) for each in heads)
        seen = scaled_dot_product_attention(query, key, value, is_causal=True).transpose(1, 2).flatten(2)
        x = x + self.mix(seen)
        return x + self.think(x)


class Embedding(nn.Module):
    """Characters and their places as vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.letters, self.places = nn.Embedding(len(LETTERS), WIDTH), nn.Embedding(CONTEXT, WIDTH)

    def forward(self, characters: Any) -> Any:
        """Return rows of vectors for rows of characters."""
        return self.letters(characters) + self.places(torch.arange(CONTEXT))


def stage(number: int, pause: float) -> nn.Sequential:
    """Return a stage, always with the same weights."""
    torch.manual_seed(number)
    layers: list[Any] = [Block(pause) for _ in range(BLOCKS[number])]
    if number == 0:
        layers.insert(0, Embedding())
    if number == len(BLOCKS) - 1:
        layers += [nn.LayerNorm(WIDTH), nn.Linear(WIDTH, len(LETTERS))]
    return nn.Sequential(*layers)


def batch(step: int, microbatches: int) -> tuple[Any, Any]:
    """Return pieces of the text and, of each character, the one that follows."""
    codes = torch.tensor([LETTERS.index(letter) for letter in TEXT])
    random = torch.Generator().manual_seed(step)
    begins = torch.randint(len(codes) - CONTEXT, (ROWS * microbatches,), generator=random).tolist()
    inputs, targets = (torch.stack([codes[b + late : b + late + CONTEXT] for b in begins]) for late in (0, 1))
    return inputs, targets


def loss(output: Any, target: Any) -> Any:
    """Return the mean cross entropy of the next character."""
    return cross_entropy(output.flatten(0, 1), target.flatten())
