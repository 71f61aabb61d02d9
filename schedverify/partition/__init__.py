"""Layers to stages: where to cut a model, exactly."""

from schedverify.partition.least import Partition, least_bottleneck

__all__ = ["Partition", "least_bottleneck"]
