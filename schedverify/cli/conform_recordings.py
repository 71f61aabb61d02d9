"""The command ``conform`` where it is given dumps of flight recorders: which rank waits where."""

from __future__ import annotations

from collections.abc import Sequence

from schedverify.cli.app import OK, VIOLATED
from schedverify.cli.options import TextOrJson
from schedverify.core.errors import Fault, InputError


def conform_recordings(plan: str, dumps: Sequence[str], output_format: TextOrJson, *, unwanted: str | None) -> int:
    """Print where each rank waited, and the cycles; exit code 1 where any did.

    Parameters
    ----------
    plan
        The file of a plan or of a schedule with communication.
    unwanted
        A file that is to be written, of which a recorder knows nothing.
    """
    from schedverify import conversion, formats
    from schedverify.cli.terminal import print_line, remark
    from schedverify.conformance.recorded_waits import recorded_hang
    from schedverify.core.result import Plan
    from schedverify.formats.text_files import naming

    if unwanted:
        raise InputError(
            Fault("--output, --draw", "a flight recorder keeps no times of steps", "give traces for these")
        )
    given = formats.load_judged(plan)
    with naming(plan):
        schedule, problem, note = conversion.subject(given, None)
        if isinstance(given, Plan) and given.lowered:
            schedule = given.lowered.schedule
    if note:
        remark(f"note: {note}")
    found = recorded_hang(schedule, problem, formats.load_recordings(dumps))
    if output_format == "json":
        print(formats.dumps(found.data()))
    else:
        for line in found.lines():
            print_line(line)
    return VIOLATED if found.waiting else OK
