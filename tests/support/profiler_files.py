"""Traces of torch.profiler as tests need them: recorded ones, and ones made of a run whose truth is known."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from schedverify.conformance.dependency_check import ops_of
from schedverify.core.op import Kind
from schedverify.core.trace import RunTrace, StepSpan

RECORDED = Path(__file__).parent / "torch_traces"


def recorded(name: str) -> list[str]:
    """Return the files of a recorded run, by rank."""
    return sorted(map(str, (RECORDED / name).glob("*.json.gz")))


def event(name: str, start: int, end: int, category: str = "user_annotation", lane: object = 7, **args: object) -> dict:
    """Return an event; times are nanoseconds."""
    return {"ph": "X", "cat": category, "name": name, "pid": lane, "tid": lane, "ts": start / 1000,
            "dur": (end - start) / 1000, "args": args}  # fmt: skip


def made(
    trace: RunTrace, *, late: Sequence[int] = (), hosts: Sequence[str] = (), device: bool = False, bare: bool = False
) -> list[dict[str, Any]]:
    """Return what torch.profiler would write of a run, by rank.

    Parameters
    ----------
    late
        By rank, the nanoseconds that its clock is late.
    hosts
        By rank, the name of its host.
    device
        Whether a device does the work: the program launches everything at once.
    bare
        Whether nothing but the marks is in the files: then a wait is not told from the work behind it.
    """
    files = []
    for rank in range(trace.ranks):
        events: list[dict[str, Any]] = []
        for number, step in enumerate(trace.steps):
            row = [ran for ran in step if ran.rank == rank]
            begin = min(ran.start for ran in step)
            write = _on_device if device else _on_host
            own = list(write(row, begin, bare))
            last = max(each["ts"] + each["dur"] for each in own)
            events += [event(f"ProfilerStep#{number + 1}", begin, round(last * 1000) + 1), *own]
        for each in events:
            each["ts"] -= late[rank] / 1000 if late else 0
        about = {"rank": rank, "backend": "nccl" if device else "gloo", "world_size": trace.ranks}
        files.append({"distributedInfo": about, "host_name": hosts[rank] if hosts else "", "traceEvents": events})
    return files


def _on_host(row: Sequence[StepSpan], begin: int, bare: bool) -> Iterator[dict[str, Any]]:
    """Yield the marks of a program that posts in a nanosecond, and waits for a message where it reads it."""
    free, received = begin, set[str]()
    for ran in row:
        ops = ops_of(ran.step)
        if not ops[0].kind.is_compute:
            yield event(f"PP:{ran.step}", free, free + 1)
            received |= {f"{op.stage}{op.kind.name[-1]}{op.microbatch}" for op in ops if "RECV" in op.kind.name}
            free += 1
            continue
        yield event(f"PP:{ran.step}", free, ran.end)
        reads = any(f"{op.stage}{'F' if op.kind is Kind.F else 'B'}{op.microbatch}" in received
                    for op in ops if op.kind is not Kind.W)  # fmt: skip
        if reads and not bare:
            yield event("gloo:recv", begin, max(ran.start, free))
        if not bare:
            yield event("aten::mm", max(ran.start, free), ran.end, "cpu_op")
        free = ran.end


def _on_device(row: Sequence[StepSpan], begin: int, _: bool) -> Iterator[dict[str, Any]]:
    """Yield the marks of a program that launches all at once, and the work of its device.

    A forward has its range on the device; a backward has only a kernel that another thread launched meanwhile.
    """
    for number, ran in enumerate(row):
        launched, computes = begin + 2 * number, ops_of(ran.step)[0].kind.is_compute
        yield event(f"PP:{ran.step}", launched, launched + 1, **{"External id": launched})
        if ops_of(ran.step)[0].kind in (Kind.F, Kind.SEND_F, Kind.RECV_F):
            yield event(f"PP:{ran.step}", ran.start, ran.end, "gpu_user_annotation", 0 if computes else 30)
        elif computes or ops_of(ran.step)[0].kind.is_transfer:
            yield event("cudaLaunchKernel", launched, launched, "cuda_runtime", 8, correlation=launched)
            name = "gemm" if computes else "ncclDevKernel_SendRecv"
            yield event(name, ran.start, ran.end, "kernel", 0 if computes else 31, correlation=launched)


def written(folder: Path, files: Sequence[Any]) -> list[str]:
    """Write traces into a folder and return their names."""
    names = [str(folder / f"rank{rank}.json") for rank in range(len(files))]
    for name, data in zip(names, files, strict=True):
        Path(name).write_text(json.dumps(data), encoding="utf-8")
    return names
