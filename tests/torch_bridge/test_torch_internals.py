"""The bridge to PyTorch's pipeline runtime."""

from __future__ import annotations

import importlib.util

import pytest

from schedverify.core.errors import UnsupportedError
from schedverify.torch_bridge import require_torch

torch = pytest.importorskip("torch", reason="torch is not installed")


class TestVersions:
    def test_the_installed_version_is_tested(self) -> None:
        assert require_torch() is torch

    def test_another_version_is_refused_by_name(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch, "__version__", "2.5.1")
        with pytest.raises(UnsupportedError, match=r"torch: version 2\.5\.1, where the bridge is tested with 2\.13"):
            require_torch()

    def test_no_torch_is_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        with pytest.raises(UnsupportedError, match="torch: it is not installed"):
            require_torch()
