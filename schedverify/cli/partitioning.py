"""The command ``partition``: a model cut into stages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter, validators

from schedverify.cli.options import TextOrJson

if TYPE_CHECKING:
    from schedverify.partitioning import Cut

Count = validators.Number(gte=1)
Recompute = Literal["none", "selective", "full"]


def partition(  # noqa: PLR0913 - each is an option of the command line
    model: Annotated[
        str,
        Parameter(
            allow_leading_hyphen=True,
            help="Model, TOML or JSON, or PipeDream's profile; or the name of a decoder that comes along.",
        ),
    ],
    *,
    ranks: Annotated[int, Parameter(validator=Count, help="Devices of the pipeline.")],
    virtual: Annotated[int, Parameter(validator=Count, help="Stages per rank.")] = 1,
    microbatches: Annotated[
        int | None, Parameter(validator=Count, help="Micro-batches of a step; four times the ranks by default.")
    ] = None,
    family: Annotated[
        str | None, Parameter(help="The schedule that counts for memory; 1f1b, with several stages interleaved-1f1b.")
    ] = None,
    device: Annotated[str | None, Parameter(help="Of a decoder: a device that comes along.")] = None,
    sequence: Annotated[int | None, Parameter(validator=Count, help="Of a decoder: tokens of a sequence.")] = None,
    microbatch_size: Annotated[
        int | None, Parameter(validator=Count, help="Of a decoder: sequences of a micro-batch.")
    ] = None,
    tensor_parallel: Annotated[
        int | None, Parameter(validator=Count, help="Of a decoder: devices that share each layer.")
    ] = None,
    recompute: Annotated[
        Recompute | None, Parameter(help="Of a decoder: what the backward computes again; selective by default.")
    ] = None,
    output: Annotated[str | None, Parameter(name=["--output", "-o"], help="Problem file, .toml or .json.")] = None,
    megatron_layout: Annotated[
        bool, Parameter(negative="", help="Print Megatron's --pipeline-model-parallel-layout, and nothing else.")
    ] = False,
    time_limit: Annotated[float, Parameter(help="Seconds, where a rank has several stages.")] = 20,
    output_format: TextOrJson = "text",
) -> int:
    """Cut a model into stages: the least load of the busiest rank or link, within every rank's memory."""
    from schedverify import formats, partitioning
    from schedverify.formats.megatron import megatron_layout as layout_of
    from schedverify.formats.model_files import load_model

    training = {"sequence": sequence, "microbatch_size": microbatch_size, "tensor_parallel": tensor_parallel}
    given = load_model(model, _changes(device, {**training, "recompute": recompute}))
    found = partitioning.cut(
        given,
        ranks=ranks,
        virtual=virtual,
        microbatches=microbatches or 4 * ranks,
        family=family,
        time_limit=time_limit,
    )
    if output is not None:
        formats.save(found.problem, output)
    if megatron_layout:
        print(layout_of(given, found.partition.layers, ranks))
    elif output_format == "json":
        print(formats.dumps(_data(found)))
    elif output != "-":
        for line in _lines(found):
            print(line)
    return 0


def _changes(device: str | None, training: dict[str, object]) -> dict[str, dict[str, object]]:
    """Return what the options say of a decoder's training and device, by table of a model file."""
    given = {name: value for name, value in training.items() if value is not None}
    return ({"training": given} if given else {}) | ({"device": {"like": device}} if device else {})


def _data(found: Cut) -> dict[str, object]:
    partition = found.partition
    return {
        "layers": found.names,
        "bottleneck": partition.bottleneck,
        "bytes": partition.crossing,
        "proved": partition.proved,
        "linearized": partition.linearized,
        "family": found.family,
        "makespan": found.timeline().makespan,
    }


def _lines(found: Cut) -> Iterator[str]:
    from schedverify.partitioning import evenly
    from schedverify.timeline import simulate

    problem, tick = found.problem, found.problem.tick
    yield "stage  rank  layers  forward  backward  what is in it"
    for stage, names in enumerate(found.names):
        inside = names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"
        figures = f"{len(names):>6}  {problem.forward[stage]:>7}  {problem.backward[stage]:>8}"
        yield f"{stage:>5}  {problem.homes[stage]:>4}  {figures}  {inside}"
    proof = "no partition has less" if found.partition.proved else "the search for a better one ran out of time"
    kind = "; the graph was cut as a chain" if found.partition.linearized else ""
    yield f"busiest rank or link: {found.partition.bottleneck} {tick} a micro-batch ({proof}{kind})"
    yield f"bytes over all cuts: {found.partition.crossing}"
    own = found.timeline()
    even = simulate(own.schedule, evenly(found.model, found)).makespan
    yield f"{found.family}, {problem.microbatches} micro-batches: makespan {own.makespan} {tick}"
    yield f"with as many layers on each stage: {even} {tick}"
    yield f"peak memory by rank: {' '.join(map(str, own.peak_memory))}"
