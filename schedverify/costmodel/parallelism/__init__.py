"""Hybrid parallelism: degrees of tensor, pipeline and data parallelism for a decoder on a cluster, with their price."""

from schedverify.costmodel.parallelism.advising import Advice, advise
from schedverify.costmodel.parallelism.cluster import Choices, Cluster
from schedverify.costmodel.parallelism.pricing import Priced
from schedverify.costmodel.parallelism.setups import Rejected, SetUp

__all__ = ["Advice", "Choices", "Cluster", "Priced", "Rejected", "SetUp", "advise"]
