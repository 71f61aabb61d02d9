"""PyTorch's pipeline runtime, both ways: the only room that knows its private names."""

from schedverify.torch_bridge.versions import TESTED, require_torch

__all__ = ["TESTED", "require_torch"]
