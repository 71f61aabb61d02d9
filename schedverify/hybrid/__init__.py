"""Hybrid parallelism: degrees of tensor, pipeline and data parallelism for a decoder on a cluster, with their price."""

from schedverify.hybrid.advising import Advice, advise
from schedverify.hybrid.cluster import Choices, Cluster
from schedverify.hybrid.pricing import Priced
from schedverify.hybrid.setups import Rejected, SetUp

__all__ = ["Advice", "Choices", "Cluster", "Priced", "Rejected", "SetUp", "advise"]
