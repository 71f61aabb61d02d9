"""The bridge held against real processes: what a loop of torch launches there, and the orders of real objects."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

import pytest

from schedverify.torch_bridge import from_torch, problem_from_torch, torch_loop, torch_problem, torch_schedule
from support.gloo_pool import GlooPool

pytest.importorskip("torch", reason="torch is not installed")

RANKS = 3
LETTERS = {"get_fwd_recv_ops": "RECV_F", "get_fwd_send_ops": "SEND_F", "get_bwd_recv_ops": "RECV_B",
           "get_bwd_send_ops": "SEND_B"}  # fmt: skip
COMPUTING = {"forward_one_chunk": "F", "backward_one_chunk": "B"}


@pytest.fixture(scope="module")
def pool() -> Iterator[GlooPool]:
    with GlooPool(RANKS) as processes:
        yield processes


@pytest.mark.parametrize("name", ["GPipe", "1F1B", "ForwardOnly"])
def test_a_loop_launches_in_real_processes_what_the_bridge_says(name: str, pool: GlooPool) -> None:
    for microbatches in (RANKS, 7):
        outcomes = pool.run(launched, name, microbatches)
        assert [outcome.error for outcome in outcomes] == [None] * RANKS
        told = torch_loop(name, ranks=RANKS, microbatches=microbatches).strings()
        assert [outcome.value for outcome in outcomes] == told


@pytest.mark.parametrize("name", ["Interleaved1F1B", "DualPipeV"])
@pytest.mark.parametrize("deferred", [False, True])
def test_a_real_object_holds_what_the_bridge_says_of_its_class(name: str, deferred: bool, pool: GlooPool) -> None:
    shape = {"ranks": RANKS, "microbatches": 6, "virtual": 2}
    for outcome in pool.run(imported, name, shape["microbatches"], deferred):
        assert outcome.error is None
        order, lowered, problem = outcome.value
        assert order == torch_schedule(name, **shape)
        assert lowered == torch_schedule(name, **shape, lowered=True, defer_receives=deferred)
        assert problem == torch_problem(name, **shape)


def launched(rank: int, name: str, microbatches: int) -> list[str]:
    """Run a step of a class with one stage a rank, and return what it launched, in order."""
    torch = importlib.import_module("torch")
    pipelining = importlib.import_module("torch.distributed.pipelining")
    schedules = importlib.import_module("torch.distributed.pipelining.schedules")
    stage = pipelining.PipelineStage(torch.nn.Linear(4, 4), rank, RANKS, torch.device("cpu"))
    steps: list[str] = []
    texts = _watch(stage, steps)
    batch_p2p = schedules._batch_p2p

    def watched(ops: list[Any], *arguments: Any, **keywords: Any) -> Any:
        batch = [texts[id(op)] for op in ops if id(op) in texts]
        if batch:
            steps.append(batch[0] if len(batch) == 1 else f"[{';'.join(batch)}]")
        return batch_p2p(ops, *arguments, **keywords)

    schedules._batch_p2p = watched
    try:
        _step(name, stage, rank, microbatches)
    finally:
        schedules._batch_p2p = batch_p2p
    return steps


def _step(name: str, stage: Any, rank: int, microbatches: int) -> None:
    torch = importlib.import_module("torch")
    pipelining = importlib.import_module("torch.distributed.pipelining")
    forward_only = name == "ForwardOnly"
    kind = pipelining._ScheduleForwardOnly if forward_only else getattr(pipelining, f"Schedule{name}")
    live = kind(stage, microbatches, loss_fn=None if forward_only else torch.nn.functional.mse_loss)
    inputs = [torch.ones(microbatches, 4)] if rank == 0 else []
    last = rank == RANKS - 1 and not forward_only
    live.step(*inputs, **({"target": torch.zeros(microbatches, 4), "losses": []} if last else {}))


def _watch(stage: Any, steps: list[str]) -> dict[int, str]:
    """Make a stage write down what it computes; the texts of its sends and receives are filled in by their identity."""
    texts: dict[int, str] = {}
    kept: list[Any] = []

    def talking(method: Any, letters: str) -> Any:
        def talk(microbatch: int) -> list[Any]:
            ops = method(microbatch)
            kept.extend(ops)
            texts.update({id(op): f"{stage.stage_index}{letters}{microbatch}" for op in ops})
            return list(ops)

        return talk

    def computing(method: Any, letters: str) -> Any:
        def compute(microbatch: int, *arguments: Any, **keywords: Any) -> Any:
            steps.append(f"{stage.stage_index}{letters}{microbatch}")
            return method(microbatch, *arguments, **keywords)

        return compute

    def reduce(*arguments: Any) -> None:
        steps.append(f"{stage.stage_index}REDUCE_GRAD")
        perform(*arguments)

    for name, letters in LETTERS.items():
        setattr(stage, name, talking(getattr(stage, name), letters))
    for name, letters in COMPUTING.items():
        setattr(stage, name, computing(getattr(stage, name), letters))
    perform, stage.perform_reduce_grad = stage.perform_reduce_grad, reduce
    return texts


def imported(rank: int, name: str, microbatches: int, deferred: bool) -> tuple[Any, Any, Any]:
    """Make an object of a class with two stages a rank, on real stages, and import what it holds."""
    torch = importlib.import_module("torch")
    pipelining = importlib.import_module("torch.distributed.pipelining")
    second = 2 * RANKS - 1 - rank if name == "DualPipeV" else rank + RANKS
    stages = [
        pipelining.PipelineStage(torch.nn.Linear(4, 4), stage, 2 * RANKS, torch.device("cpu"))
        for stage in (rank, second)
    ]
    kind = getattr(pipelining, f"Schedule{name}")
    live = kind(stages, microbatches, loss_fn=torch.nn.functional.mse_loss, defer_pp_recv=deferred)
    return from_torch(live), from_torch(live, lowered=True), problem_from_torch(live)
