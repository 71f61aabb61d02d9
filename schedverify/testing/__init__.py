"""Property tests for anyone's scheduler: hypothesis strategies for problems and schedules, and what must hold.

It needs hypothesis (the extra ``testing``). Importing it makes ``hypothesis.strategies.from_type`` know ``Problem`` and
``Schedule``, and loads at once whatever an example needs, so that no example meets hypothesis' deadline with an import.
"""

from hypothesis import strategies as _st

from schedverify.core.problem import Problem as _Problem
from schedverify.core.schedule import Schedule as _Schedule
from schedverify.testing.certifying import certify
from schedverify.testing.checking import SchedulerFault, check_scheduler
from schedverify.testing.checking import warm_up as _warm_up
from schedverify.testing.faults import mutations
from schedverify.testing.lowerings import check_lowering, lowerings
from schedverify.testing.online import OnlineScheduler, scheduler_machine
from schedverify.testing.orders import schedules
from schedverify.testing.planting import Mutation
from schedverify.testing.shapes import problems
from schedverify.testing.statements import Statement, load_statement

__all__ = [
    "Mutation", "OnlineScheduler", "SchedulerFault", "Statement", "certify", "check_lowering", "check_scheduler",
    "load_statement", "lowerings", "mutations", "problems", "scheduler_machine", "schedules",
]  # fmt: skip

_warm_up()
_st.register_type_strategy(_Problem, problems())
_st.register_type_strategy(_Schedule, problems().flatmap(schedules))
