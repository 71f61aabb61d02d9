"""Hybrid parallelism: degrees of tensor, pipeline and data parallelism for a decoder on a cluster, with their price."""

from schedverify.costmodel.parallelism.pricing import Advice, Priced, advise
from schedverify.costmodel.parallelism.setups import Choices, Cluster, Rejected, SetUp

__all__ = ["Advice", "Choices", "Cluster", "Priced", "Rejected", "SetUp", "advise"]
