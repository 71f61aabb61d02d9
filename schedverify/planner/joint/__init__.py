"""Partition, placement and schedule searched for together, by partitions in the order of their bounds."""

from schedverify.planner.joint.best_plan import partition_jointly
from schedverify.planner.joint.found import Joint, Tried

__all__ = ["Joint", "Tried", "partition_jointly"]
