"""The command ``partition``: a model cut into stages."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, cast

from cyclopts import Parameter, validators

from schedverify.cli import partition_cluster, partition_jointly
from schedverify.cli.app import OK, VIOLATED
from schedverify.cli.options import Count, TextOrJson
from schedverify.core.errors import Fault, InputError, ScheduleError

if TYPE_CHECKING:
    from schedverify.core.model import Model
    from schedverify.core.timeline import Timeline
    from schedverify.costmodel.parallelism import Advice, Priced
    from schedverify.partitioner.stage_problem import Cut
    from schedverify.planner.joint import Joint

Recompute = Literal["none", "selective", "full"]

Together = Annotated[
    bool, Parameter(negative="", help="Search for partition, placement and schedule together, with a proof.")
]
PlanFile = Annotated[
    str | None, Parameter(allow_leading_hyphen=True, help="With --joint, plan file to write; - for standard output.")
]
Framework = Annotated[
    Literal["megatron-layout", "megatron-flags", "torch", "torchtitan", "deepspeed"] | None,
    Parameter(help="Print the cut as the framework takes it, and nothing else."),
]
Threads = Annotated[int | None, Parameter(validator=Count, help="Threads of the search; 2, with --joint all cores.")]
Seconds = Annotated[
    float,
    Parameter(
        validator=validators.Number(gte=0),
        help="Seconds of the search, with --joint or where a rank has several stages.",
    ),
]
ModelFile = Annotated[
    str,
    Parameter(
        allow_leading_hyphen=True,
        help="Model, TOML or JSON, or PipeDream's profile; or the name of a decoder that comes along.",
    ),
]
Ranks = Annotated[int | None, Parameter(validator=Count, help="Devices of the pipeline; needed without --cluster.")]
Size = Annotated[int | None, Parameter(validator=Count, help="Of a decoder: sequences of a micro-batch.")]
Shared = Annotated[int | None, Parameter(validator=Count, help="Of a decoder: devices that share each layer.")]
Again = Annotated[
    Recompute | None, Parameter(help="Of a decoder: what the backward computes again; selective by default.")
]
ClusterFile = Annotated[
    str | None, Parameter(help="Cluster file: choose the degrees for a decoder; what is given is fixed.")
]


def partition(  # noqa: PLR0913 - each is an option of the command line
    model: ModelFile,
    *,
    ranks: Ranks = None,
    virtual: Annotated[int | None, Parameter(validator=Count, help="Stages per rank, 1 without --cluster.")] = None,
    microbatches: Annotated[
        int | None, Parameter(validator=Count, help="Micro-batches of a step; four times the ranks by default.")
    ] = None,
    family: Annotated[
        str | None, Parameter(help="The schedule that counts for memory; 1f1b, with several stages interleaved-1f1b.")
    ] = None,
    device: Annotated[str | None, Parameter(help="Of a decoder: a device that comes along.")] = None,
    sequence: Annotated[int | None, Parameter(validator=Count, help="Of a decoder: tokens of a sequence.")] = None,
    microbatch_size: Size = None,
    tensor_parallel: Shared = None,
    recompute: Again = None,
    cluster: ClusterFile = None,
    top: Annotated[int, Parameter(validator=Count, help="How many choices for a cluster are shown.")] = 10,
    output: Annotated[
        str | None, Parameter(name=["--output", "-o"], allow_leading_hyphen=True, help="Problem file, .toml or .json.")
    ] = None,
    to: Framework = None,
    megatron_layout: Annotated[bool, Parameter(negative="", help="The same as --to megatron-layout.")] = False,
    joint: Together = False,
    plan: PlanFile = None,
    time_limit: Seconds = 20,
    seed: Annotated[int, Parameter(help="With --joint, one worker and a seed give the same plan.")] = 0,
    workers: Threads = None,
    output_format: TextOrJson = "text",
) -> int:
    """Cut a model into stages: the least load of the busiest rank or link, within every rank's memory."""
    from schedverify import formats, models

    training = {"sequence": sequence, "microbatch_size": microbatch_size, "tensor_parallel": tensor_parallel,
                "recompute": recompute}  # fmt: skip
    if cluster is not None:
        _refuse(microbatches=microbatches, family=family, joint=joint or None, plan=plan)
        options: dict[str, Any] = {**training, "device": device, "ranks": ranks, "virtual": virtual, "top": top}
        form = to or ("megatron-layout" if megatron_layout else None)
        return _advised(
            cast("Advice", models.partition(model, cluster=cluster, **options)), output, output_format, form
        )
    if ranks is None:
        raise InputError(Fault("--ranks", "missing", "how many devices the pipeline has, or --cluster FILE"))
    given = models.load_model(model, models.decoder_changes(device, training))
    if plan is not None and not joint:
        raise InputError(Fault("--plan", "stands without --joint", "optimize the problem file that -o writes"))
    search = {"ranks": ranks, "virtual": virtual, "microbatches": microbatches, "family": family,
             "time_limit": time_limit, "workers": workers}  # fmt: skip
    answer = (
        _together(given, search | {"seed": seed}, plan, output_format == "text") if joint else _apart(given, search)
    )
    written = _written(given, answer.found, to or ("megatron-layout" if megatron_layout else None))
    if output is not None:
        formats.save(answer.found.problem, output)
    if output_format == "json":
        print(formats.dumps(answer.data | written))
    elif written or "-" not in (output, plan):
        print("\n".join(map(_text, written.values()) if written else answer.lines))
    return answer.code


class _Answer(NamedTuple):
    """A model cut into stages, and what is printed of it."""

    found: Cut | Joint
    data: dict[str, Any]
    lines: list[str]
    code: int = OK


def _apart(given: Model, search: dict[str, Any]) -> _Answer:
    from schedverify import formats, models

    found = cast("Cut", models.partition(given, **search))
    return _Answer(found, formats.partition_data(found), [*_table(found), *_lines(found)])


def _together(given: Model, search: dict[str, Any], plan: str | None, bar: bool) -> _Answer:
    from schedverify import formats

    found = partition_jointly.search(given, search, bar=bar)
    if plan is not None:
        if found.plan.lowered is None:
            raise ScheduleError(f"no plan is written: {found.plan.reason}")
        formats.save(found.plan, plan)
    return _Answer(
        found,
        formats.joint_data(found),
        [*_table(found), *partition_jointly.lines(found)],
        partition_jointly.code(found),
    )


def _refuse(**options: object) -> None:
    faults = [Fault(f"--{name}", "does not go with --cluster") for name, value in options.items() if value is not None]
    if faults:
        raise InputError(faults)


def _advised(advice: Advice, output: str | None, output_format: str, form: str | None) -> int:
    """Print advice; save the problem of the fastest choice, or print its cut alone in the form of a framework."""
    from schedverify import formats

    best = advice.ranked[0] if advice.ranked else None
    written = {} if best is None else _written(advice.pricing.model(best.setup), best, form)
    if best is not None and output is not None:
        formats.save(best.problem, output)
    if output_format == "json":
        print(formats.dumps(formats.advice_data(advice) | written))
    elif written or (best is not None and output == "-"):
        print("\n".join(map(_text, written.values())), end="\n" if written else "")
    else:
        partition_cluster.show(advice)
    return OK if best is not None else VIOLATED


def _written(given: Model, found: Cut | Joint | Priced, form: str | None) -> dict[str, Any]:
    """Return the cut in the form that a framework takes, by its name; nothing where none is search for."""
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
    """Yield what is printed below the table."""
    problem, tick = found.problem, found.problem.tick
    proof = "no partition has less" if found.partition.proved else "the search for a better one ran out of time"
    kind = "; the graph was cut as a chain" if found.partition.linearized else ""
    yield f"busiest rank or link: {found.partition.bottleneck} {tick} a micro-batch ({proof}{kind})"
    yield f"bytes over all cuts: {found.partition.crossing}"
    own = found.timeline()
    yield f"{found.family}, {problem.microbatches} micro-batches: makespan {own.makespan} {tick}"
    yield f"with as many layers on each stage: {_even(found, own)}"
    yield f"peak memory by rank: {' '.join(map(str, own.peak_memory))} bytes"


def _even(found: Cut, own: Timeline) -> str:
    """Return the makespan with as many layers on each stage, and what that would not keep to."""
    from schedverify.partitioner.stage_problem import even_split, evenly
    from schedverify.simulator.engine import simulate

    even, wishes = simulate(own.schedule, evenly(found.model, found)), found.model.wishes
    against = [] if wishes.allow(even_split(found.model, found.problem.stages)) else ["against the wishes"]
    for rank, (peak, room) in enumerate(zip(even.peak_memory, found.problem.capacity or (), strict=False)):
        if peak > room:
            against.append(f"with {peak} bytes on rank {rank}, which has {room}")
    if even.makespan < own.makespan and not against:
        against.append("which is less, though its busiest rank or link has more to do (--joint looks for the least)")
    return ", ".join([f"{even.makespan} {found.problem.tick}", *against[:2]])
