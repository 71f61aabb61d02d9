"""Partition, placement and schedule searched for together, by partitions in the order of their bounds."""

from schedverify.planner.joint.best_plan import Joint, TriedPartition, partition_jointly

__all__ = ["Joint", "TriedPartition", "partition_jointly"]
