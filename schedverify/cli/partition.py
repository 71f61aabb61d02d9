"""The command ``partition``: a model cut into stages, alone or together with its schedule."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from cyclopts import Parameter

from schedverify import formats
from schedverify.cli import partition_cluster
from schedverify.cli.app import OK, UNDECIDED, VIOLATED
from schedverify.cli.delivery import deliver
from schedverify.cli.options import TextOrJson, decimal, file, flag, json_taken, number, said_of
from schedverify.cli.signals import stop_at_signal
from schedverify.core.errors import Fault, InputError, ScheduleError

if TYPE_CHECKING:
    from schedverify.core.model import Model
    from schedverify.core.timeline import Timeline
    from schedverify.costmodel.parallelism import Advice, Priced
    from schedverify.partitioner.account import Layers
    from schedverify.partitioner.stage_problem import Cut
    from schedverify.planner.joint import Joint

Recompute = Annotated[
    Literal["none", "selective", "full"] | None,
    Parameter(help="Of a decoder: what the backward computes again; selective by default."),
]
Framework = Annotated[
    Literal["megatron-layout", "megatron-flags", "torch", "torchtitan", "deepspeed"] | None,
    Parameter(help="Print the cut as the framework takes it, and nothing else."),
]


def partition(  # noqa: PLR0913 - each is an option of the command line
    model: Annotated[
        str, file("Model, TOML or JSON, or PipeDream's profile; or the name of a decoder that comes along.")
    ],
    *,
    ranks: Annotated[int | None, number("Devices of the pipeline; needed without --cluster.")] = None,
    virtual: Annotated[int | None, number("Stages per rank, 1 without --cluster.")] = None,
    microbatches: Annotated[int | None, number("Micro-batches of a step; four times the ranks by default.")] = None,
    family: Annotated[
        str | None, Parameter(help="The schedule that counts for memory; 1f1b, with several stages interleaved-1f1b.")
    ] = None,
    device: Annotated[str | None, Parameter(help="Of a decoder: a device that comes along.")] = None,
    sequence: Annotated[int | None, number("Of a decoder: tokens of a sequence.")] = None,
    microbatch_size: Annotated[int | None, number("Of a decoder: sequences of a micro-batch.")] = None,
    tensor_parallel: Annotated[int | None, number("Of a decoder: devices that share each layer.")] = None,
    recompute: Recompute = None,
    cluster: Annotated[
        str | None, Parameter(help="Cluster file: choose the degrees for a decoder; what is given is fixed.")
    ] = None,
    top: Annotated[int, number("How many choices for a cluster are shown.")] = 10,
    output: Annotated[str | None, file("Problem file, .toml or .json.", "--output", "-o")] = None,
    to: Framework = None,
    megatron_layout: Annotated[bool, flag("The same as --to megatron-layout.")] = False,
    joint: Annotated[bool, flag("Search for partition, placement and schedule together, with a proof.")] = False,
    plan: Annotated[str | None, file("With --joint, plan file to write; - for standard output.")] = None,
    time_limit: Annotated[float, decimal("Seconds of the search.", least=0)] = 20,
    seed: Annotated[int, number("With --joint, one worker and a seed give the same plan.", least=None)] = 0,
    workers: Annotated[int | None, number("Threads of the search; 2, with --joint all cores.")] = None,
    output_format: TextOrJson = "text",
) -> int:
    """Cut a model into stages: the least load of the busiest rank or link, within every rank's memory."""
    from schedverify import models

    _check_files(output, plan, (model, cluster), json_taken(output_format))
    training: dict[str, Any] = {"sequence": sequence, "microbatch_size": microbatch_size,
                                "tensor_parallel": tensor_parallel, "recompute": recompute}  # fmt: skip
    shape: dict[str, Any] = {"ranks": ranks, "virtual": virtual}
    form = to or ("megatron-layout" if megatron_layout else None)
    if cluster is not None:
        _refuse(microbatches=microbatches, family=family, joint=joint or None, plan=plan)
        stop = stop_at_signal()
        advice = models.partition(model, cluster=cluster, device=device, top=top, **shape, **training, stop=stop)
        return _advised(cast("Advice", advice), output, output_format, form)
    if ranks is None:
        raise InputError(Fault("--ranks", "missing", "how many devices the pipeline has, or --cluster FILE"))
    changes, stages, count = models.decoder_changes(device, training), ranks * (virtual or 1), microbatches or 4 * ranks
    given = models.load_to_cut(model, changes, stages, count)
    search = shape | {"microbatches": microbatches, "family": family, "time_limit": time_limit, "workers": workers}
    with said_of(model, *search, "plan", "seed"):
        found, data, lines, code = (
            _together(given, search | {"seed": seed}, output_format == "text") if joint else _apart(given, search, plan)
        )
        written = _written(given, found, form)
    wanted = written or "-" not in (output, plan)
    text = "\n".join(map(_text, written.values()) if written else lines) + "\n" if wanted else ""
    show = partial(print, text if output_format == "text" else f"{formats.dumps(data | written)}\n", end="")
    files = ((output, partial(formats.save, found.problem)), (plan, partial(_save_plan, found)))
    deliver(show, *files, rescue=output_format == "text")
    return code


def _check_files(output: str | None, plan: str | None, inputs: tuple[str | None, ...], printed: str) -> None:
    from schedverify.core.problem import Problem
    from schedverify.core.result import Plan

    problem_file = formats.Destination("--output", output, partial(formats.form_of_file, Problem))
    plan_file = formats.Destination("--plan", plan, partial(formats.form_of_file, Plan))
    formats.check_destinations(problem_file, plan_file, inputs=inputs, printed=printed)


_Answer = tuple["Cut | Joint", dict[str, Any], list[str], int]
"""The answer of a search: the cut, its data as JSON, its text as lines, and the exit code."""


def _save_plan(found: Cut | Joint, path: str) -> None:
    """Write the plan of a joint search, where it has one."""
    plan = cast("Joint", found).plan
    if plan.schedule is None:
        return
    if plan.lowered is None:
        raise ScheduleError(f"no plan is written: {plan.reason}")
    formats.save(plan, path)


def _apart(given: Model, search: dict[str, Any], plan: str | None) -> _Answer:
    from schedverify import models

    if plan is not None:
        raise InputError(Fault("plan", "stands without --joint", "optimize the problem file that -o writes"))
    found = cast("Cut", models.partition(given, **search, stop=stop_at_signal()))
    return found, formats.partition_data(found), [*_table(found), *_lines(found)], OK


def _together(given: Model, search: dict[str, Any], bar: bool) -> _Answer:
    """Search for partition and schedule together, with a bar on a terminal; Ctrl-C keeps the best."""
    from schedverify import models
    from schedverify.cli.terminal import progress_on_terminal

    stop = stop_at_signal()
    with progress_on_terminal(bar, search["time_limit"]) as progress:
        found = cast("Joint", models.partition(given, joint=True, **search, progress=progress, stop=stop))
    code = UNDECIDED if found.plan.schedule is None else OK
    return found, formats.joint_data(found), [*_table(found), *_joint_lines(found)], code


def _refuse(**options: object) -> None:
    faults = [Fault(f"--{name}", "does not go with --cluster") for name, value in options.items() if value is not None]
    if faults:
        raise InputError(faults)


def _advised(advice: Advice, output: str | None, output_format: str, form: str | None) -> int:
    """Print advice; save the problem of the fastest choice, or print its cut alone in the form of a framework."""
    best = advice.ranked[0] if advice.ranked else None
    written = {} if best is None else _written(advice.pricing.model(best.setup), best, form)

    def show() -> None:
        if output_format == "json":
            print(formats.dumps(formats.advice_data(advice) | written))
        elif written or (best is not None and output == "-"):
            print("\n".join(map(_text, written.values())), end="\n" if written else "")
        else:
            partition_cluster.show(advice)

    files = () if best is None else ((output, partial(formats.save, best.problem)),)
    deliver(show, *files, rescue=output_format == "text")
    if best is not None:
        return OK
    return UNDECIDED if advice.unpriced else VIOLATED


def _written(given: Model, found: Cut | Joint | Priced, form: str | None) -> dict[str, Any]:
    """Return the cut in the form of a framework, under the name of that form; empty if no form is asked for."""
    from schedverify.formats.framework_cuts import for_framework

    return {} if form is None else {form: for_framework(form, given, found.layers, found.problem.owner_rank)}


def _text(written: Any) -> str:
    """Return text as it is, and lists as Python, TOML and JSON write them."""
    return written if isinstance(written, str) else json.dumps(written, ensure_ascii=False)


def _table(found: Cut | Joint) -> Iterator[str]:
    """Yield a line for each stage."""
    problem = found.problem
    yield "stage  rank  layers  forward  backward  what is in it"
    for stage, names in enumerate(found.names):
        inside = names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"
        figures = f"{len(names):>6}  {problem.forward[stage]:>7}  {problem.backward[stage]:>8}"
        yield f"{stage:>5}  {problem.owner_rank[stage]:>4}  {figures}  {inside}"


def _lines(found: Cut) -> Iterator[str]:
    """Yield the lines below the table: the bottleneck and its proof, bytes, makespans and peaks of memory."""
    from schedverify.core.timeline import sizes_by_rank

    problem, units, partition = found.problem, found.problem.units, found.partition
    less = "no partition into consecutive layers has less" if partition.linearized else "no partition has less"
    proof = less if partition.proved else "whether another has less stayed open"
    kind = "; the graph was cut as a chain" if partition.linearized else ""
    yield f"busiest rank or link: {units.time(partition.bottleneck)} a micro-batch ({proof}{kind})"
    within = any(rank == following for rank, following in pairwise(problem.owner_rank))
    yield f"bytes over all cuts{' between ranks' if within else ''}: {units.size(partition.crossing)}"
    own = found.timeline()
    yield f"{found.family}, {problem.microbatches} micro-batches: makespan {units.time(own.makespan)}"
    yield f"with as many layers on each stage: {_even(found, own)}"
    yield f"peak memory by rank: {sizes_by_rank(own.peak_memory, units)}"


def _even(found: Cut, own: Timeline) -> str:
    """Return the makespan of the cut with equally many layers on each stage, and the limits that it breaks."""
    from schedverify.partitioner.stage_problem import even_split, evenly

    layers, even = even_split(found.model, found.problem.stages), found._replace(problem=evenly(found.model, found))
    against = [] if found.model.constraints.allow(layers) else ["against the wishes"]
    timeline = even.timeline()
    for rank, (peak, room) in enumerate(zip(timeline.peak_memory, found.problem.capacity or (), strict=False)):
        if peak > room:
            against.append(f"with {even.problem.units.over(peak, room)}, on rank {rank}")
    if timeline.makespan < own.makespan and not against:
        against.append(f"which is less{_though(found, layers)} (--joint looks for the least)")
    return ", ".join([found.problem.units.time(timeline.makespan), *against[:2]])


def _though(found: Cut, layers: Layers) -> str:
    """Return in what another cut is worse, of all that counts before the makespan; empty where it is not."""
    from schedverify.partitioner.account import usage_of

    placement = found.problem.owner_rank
    own, other = (usage_of(found.model, each, placement) for each in (found.layers, layers))
    words = ("its busiest rank or link has more to do", "its largest stage takes longer", "it sends more bytes")
    return next((f", though {what}" for what, mine, more in zip(words, own, other, strict=True) if more > mine), "")


def _joint_lines(joint: Joint) -> Iterator[str]:
    """Yield the lines below the table: what is proved over all partitions, and the gain over partition first."""
    from schedverify.core.timeline import sizes_by_rank

    plan, units = joint.plan, joint.plan.problem.units
    if plan.value is None or plan.measures is None:
        yield f"no schedule was found: {joint.reason}"
        return
    yield f"makespan {units.time(plan.value)}: {_proved(joint)}"
    if joint.linearized:
        yield "the graph was cut as a chain"
    if joint.first is not None and joint.gain is not None:
        saved = f"{float(joint.gain):.2%} more" if joint.gain else "no more"
        before = units.time(joint.first.value or 0)
        yield f"partition first, schedule second: {before}, {saved}"
    else:
        yield "partition first, schedule second: no partition was found that fits what the family has in flight"
    among = "" if joint.partitions is None else f" of {joint.partitions}"
    others = units.time(_others(joint))
    yield f"partitions looked at: {len(joint.tried)}{among}; the others have a bound of {others} or more"
    yield f"peak memory by rank: {sizes_by_rank(plan.measures.peak_memory, units)}"


def _proved(joint: Joint) -> str:
    kind = "partition into consecutive layers" if joint.linearized else "partition"
    if not joint.gap:
        return f"no {kind} has a schedule with less"
    bound = joint.plan.problem.units.time(joint.bound)
    return f"at most {float(joint.gap):.2%} above what any {kind} can have ({bound}); {joint.reason}"


def _others(joint: Joint) -> int:
    return joint.bound if joint.gap or joint.plan.value is None else joint.plan.value
