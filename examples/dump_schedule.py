"""Write what a pipeline of torch.distributed.pipelining runs to a file that `schedverify verify` reads.

Paste the three functions into a training script and call `dump_schedule` on every rank. For torch 2.13 to 2.15, and in
need of nothing else.
"""

import copy
import json
import types

import torch
import torch.distributed as dist


def dump_schedule(schedule, path):
    """Write the orders of all ranks of a pipeline, as each rank has its own; every rank calls it, before the step."""
    stages = getattr(schedule, "_stages", None) or [schedule._stage]
    order = getattr(schedule, "pipeline_order_with_comms", None) or getattr(schedule, "pipeline_order", None)
    by_hand = not hasattr(schedule, "_stages")
    row = loop_order(schedule) if by_hand else [str(step) for step in order[stages[0].group_rank] if step is not None]
    sent = {each.stage_index: getattr(getattr(each, "_stage_meta", None), "outputs", None) or () for each in stages}
    shapes = {stage: [(list(one.shape), str(one.dtype), one.dtype.itemsize) for one in sent[stage]] for stage in sent}
    ranks = gathered({"order": row, "stages": shapes}, stages[0])
    if stages[0].group_rank == 0:
        about = {"torch": torch.__version__, "class": type(schedule).__name__, "microbatches": schedule._n_microbatches}
        with open(path, "w", encoding="utf-8") as file:
            json.dump({"dump": 1, **about, "ranks": ranks}, file)


def gathered(own, stage):
    """Return what all ranks of a stage's group have, as JSON in tensors: no rank reads a pickle of another."""
    text = torch.tensor(list(json.dumps(own).encode()), dtype=torch.uint8, device=stage.device)
    sizes = [torch.zeros(1, dtype=torch.int64, device=stage.device) for _ in range(dist.get_world_size(stage.group))]
    dist.all_gather(sizes, torch.tensor([len(text)], device=stage.device), group=stage.group)
    texts = [torch.zeros(max(sizes), dtype=torch.uint8, device=stage.device) for _ in sizes]
    dist.all_gather(texts, torch.cat([text, texts[0][len(text) :]]), group=stage.group)
    return [json.loads(bytes(each[:size].tolist())) for each, size in zip(texts, sizes, strict=True)]


def loop_order(schedule):
    """Return what a loop written by hand runs (GPipe, 1F1B), by running it on a stage that only notes its calls."""
    row, alone, stage = [], copy.copy(schedule), copy.copy(schedule._stage)
    index, first, last, trains = stage.stage_index, stage.is_first, stage.is_last, schedule._has_backward

    def begin(ops, **_):
        row.extend([f"[{';'.join(ops)}]"] if len(ops) > 1 else ops)
        return list(ops)

    def wait(ops):
        row.extend(op.replace("SEND", "WAIT_SEND") for op in ops if "SEND" in op)
        ops.clear()

    stage.get_fwd_recv_ops = lambda m: [] if first else [f"{index}RECV_F{m}"]
    stage.get_fwd_send_ops = lambda m: [] if last else [f"{index}SEND_F{m}"]
    stage.get_bwd_recv_ops = lambda m: [] if last or not trains else [f"{index}RECV_B{m}"]
    stage.get_bwd_send_ops = lambda m: [] if first or not trains else [f"{index}SEND_B{m}"]
    stage.forward_one_chunk = lambda m, *_, **__: row.append(f"{index}F{m}")
    stage.backward_one_chunk = lambda m, *_, **__: row.extend([f"{index}B{m}"] * trains)
    stage.perform_reduce_grad = lambda *_: row.extend([f"{index}REDUCE_GRAD"] * trains)
    alone._stage, alone._loss_fn, alone._internal_losses, alone._initialize_stage = stage, None, [], lambda *_: None
    loop = schedule._step_microbatches.__func__
    ours = {
        "_batch_p2p": begin,
        "_sorted_batch_p2p": lambda ops, **_: {0: begin(ops)},
        "_wait_batch_p2p": wait,
        "_wait_and_release_fwd_send": lambda stage, m, ops, works: [wait(each) for each in works],
    }
    types.FunctionType(loop.__code__, loop.__globals__ | ours, None, loop.__defaults__, loop.__closure__)(alone)
    return row
