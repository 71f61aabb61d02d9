"""Lowering: passes without state, from a schedule to a schedule, that put communication into the orders."""

from schedverify.lowering.again import keep_sharding, without
from schedverify.lowering.candidates import timed_lowerings
from schedverify.lowering.deferral import defer_receives
from schedverify.lowering.grouping import group_opposite
from schedverify.lowering.insertion import add_communication
from schedverify.lowering.late_waits import add_late_waits
from schedverify.lowering.parameters import add_reduction, add_reduction_waits
from schedverify.lowering.send_waits import add_waits
from schedverify.lowering.sharding import add_sharding

__all__ = [
    "add_communication", "add_late_waits", "add_reduction", "add_reduction_waits", "add_sharding", "add_waits",
    "defer_receives", "group_opposite", "keep_sharding", "timed_lowerings", "without",
]  # fmt: skip
