"""The command ``lower``."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from cyclopts import Parameter

from schedverify.cli.delivery import deliver
from schedverify.cli.options import (
    DisciplineName,
    EagerBytes,
    Output,
    ProblemOption,
    ScheduleFile,
    flag,
    given_problem,
    number,
)


def lower(  # noqa: PLR0913 - each is an option of the command line
    schedule: ScheduleFile,
    *,
    problem: ProblemOption = None,
    discipline: Annotated[
        DisciplineName | None,
        Parameter(help="Try the safe orders, and keep the fastest that is proved under it; else the default order."),
    ] = None,
    eager_bytes: EagerBytes = 0,
    again: Annotated[
        bool, flag("Take out the communication that stands there, right or wrong; the computing stays as it is.")
    ] = False,
    unshard: Annotated[bool, flag("Add UNSHARD and RESHARD around the uses of a stage.")] = False,
    lookahead: Annotated[
        int, number("With --unshard: gather a stage once it is among so many that are used next.", least=1)
    ] = 1,
    reduce_grad: Annotated[bool, flag("Add REDUCE_GRAD behind the last backward.")] = False,
    waits: Annotated[
        bool, flag("Wait for each send, as late as the limits allow, and with --reduce-grad for each reduction.")
    ] = False,
    output: Output = None,
) -> int:
    """Put every send and receive into a compute order, so that nothing hangs and every limit of the problem is kept."""
    from schedverify import conversion, formats, lowering
    from schedverify.cli.terminal import remark
    from schedverify.core.discipline import DEFAULT_DISCIPLINE
    from schedverify.core.op import Kind
    from schedverify.core.schedule import Schedule
    from schedverify.planner import proved_lowering
    from schedverify.verifier.verification import verify

    target = formats.Destination("--output", output, partial(formats.form_of_file, Schedule))
    formats.check_destinations(target, inputs=(schedule, problem))
    given = given_problem(problem)
    order, known, note = conversion.subject_in(schedule, given)
    if again:
        order = lowering.without(order, Kind.UNSHARD, Kind.RESHARD) if unshard else order
        order = lowering.without(order, Kind.REDUCE_GRAD, Kind.WAIT_REDUCE_GRAD) if reduce_grad else order
    lowered = proved_lowering.lower(
        order, known, discipline=discipline, eager_bytes=eager_bytes, again=again, waits=waits
    )
    lowered = lowering.add_sharding(lowered, known, lookahead=lookahead) if unshard else lowered
    lowered = lowering.add_reduction(lowered, known) if reduce_grad else lowered
    lowered = lowering.add_reduction_waits(lowered) if reduce_grad and waits else lowered
    judged = partial(verify, lowered, known, eager_bytes=eager_bytes)
    if unshard or reduce_grad:
        proved_lowering.raise_for_limits(judged(discipline=discipline or DEFAULT_DISCIPLINE))
    deliver(lambda: None, (output or "-", partial(conversion.write, lowered, known)))
    if note:
        remark(f"note: {note}")
    free = f"proved free of deadlock under {discipline}" if discipline else "free of deadlock under every discipline"
    remark(f"{free}; schedverify verify --discipline {discipline or 'block'} checks it again")
    if discipline is None and known.buffer is not None:
        for violation in judged(discipline="buffered", select=["SV403"]).violations:
            remark(f"note: under buffered it is violated: {violation}; --discipline buffered looks for another order")
    return 0
