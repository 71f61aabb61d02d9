"""Partition, placement and schedule searched for together, by partitions in the order of their bounds."""

from schedverify.planner.joint.found import Joint, Tried
from schedverify.planner.joint.together import partition_jointly

__all__ = ["Joint", "Tried", "partition_jointly"]
