"""Layers to stages: where to cut a model, exactly."""

from schedverify.partitioner.bottleneck import Partition, least_bottleneck

__all__ = ["Partition", "least_bottleneck"]
