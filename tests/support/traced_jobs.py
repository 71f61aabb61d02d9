"""A small GPT in torch's own pipeline runtime, under torch.profiler, in the processes of a pool.

Each stage also rests, as long as a device would work for it, so that processes on fewer cores overlap as devices do.
"""

from __future__ import annotations

import importlib
import time
from pathlib import Path
from typing import Any

STAGES, WIDTH, WORDS, LENGTH = 8, 16, 31, 8
RESTS = (25, 10, 10, 10, 10, 10, 10, 25)
"""Milliseconds by stage, twice that in the backward: the table of words and the head make the ends heavy."""


def _stage(index: int, rests: bool) -> Any:
    torch = importlib.import_module("torch")
    nn = torch.nn

    class Rest(torch.autograd.Function):  # type: ignore[misc, name-defined]
        @staticmethod
        def forward(_: Any, x: Any) -> Any:
            time.sleep(RESTS[index] / 1000 if rests else 0)
            return x.clone()

        @staticmethod
        def backward(_: Any, gradient: Any) -> Any:
            time.sleep(2 * RESTS[index] / 1000 if rests else 0)
            return gradient

    class Block(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.heads = nn.LayerNorm(WIDTH), nn.MultiheadAttention(WIDTH, 2, batch_first=True)
            self.mixed = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 32), nn.GELU(), nn.Linear(32, WIDTH))

        def forward(self, x: Any) -> Any:
            x = Rest.apply(x)
            known = self.norm(x)
            x = x + self.heads(known, known, known, need_weights=False)[0]
            return x + self.mixed(x)

    first = [nn.Embedding(WORDS, WIDTH)] if index == 0 else []
    return nn.Sequential(*first, Block(), *([nn.Linear(WIDTH, WORDS)] if index == STAGES - 1 else []))


def profiled(rank: int, text: str, microbatches: int, folder: str, rests: bool = True) -> None:
    """Run some steps of an order of compute (PyTorch's CSV) with eight stages, and write this rank's trace."""
    torch = importlib.import_module("torch")
    schedules = importlib.import_module("torch.distributed.pipelining.schedules")
    profiler = importlib.import_module("torch.profiler")
    pipelining = importlib.import_module("torch.distributed.pipelining")
    ranks = torch.distributed.get_world_size()
    stages = [
        pipelining.PipelineStage(_stage(index, rests), index, STAGES, torch.device("cpu"))
        for index in range(rank, STAGES, ranks)
    ]

    def loss(output: Any, target: Any) -> Any:
        return torch.nn.functional.cross_entropy(output.flatten(0, 1), target.flatten())

    live = schedules._PipelineScheduleRuntime(stages, microbatches, loss_fn=loss)
    path = Path(folder) / f"order{rank}.csv"
    path.write_text(text, encoding="utf-8")
    live._load_csv(str(path), "compute_only")
    words = torch.randint(0, WORDS, (microbatches, LENGTH), generator=torch.Generator().manual_seed(0))
    last = {"target": words, "losses": []} if rank == ranks - 1 else {}
    steps = profiler.schedule(wait=0, warmup=1, active=3, repeat=1)
    with profiler.profile(activities=[profiler.ProfilerActivity.CPU], schedule=steps) as recording:
        for _ in range(4):
            live.step(*([words] if rank == 0 else []), **last)
            recording.step()
    recording.export_chrome_trace(str(Path(folder) / f"rank{rank}.json.gz"))
