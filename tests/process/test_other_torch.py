"""The bridge's tests on torch 2.14, which lies between the two versions that ``.ci/run`` tests it with.

They run in an environment of their own: that of the interpreter named by ``SCHEDVERIFY_TORCH_2_14_PYTHON``, which needs
pytest, pytest-timeout, pytest-xdist and hypothesis beside torch, else one that is made here, of some gigabytes.
"""

from __future__ import annotations

import os
import subprocess

import pytest

from support.environments import ROOT, interpreter_with

pytestmark = [pytest.mark.long, pytest.mark.timeout(3600)]
NAME = "SCHEDVERIFY_TORCH_2_14_PYTHON"
PLUGINS = ("pytest-timeout", "pytest-xdist")


@pytest.fixture(scope="module")
def interpreter(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("torch")
    pins = (ROOT / "constraints-torch-2.15.txt").read_text(encoding="utf-8")
    (folder / "constraints.txt").write_text(pins.replace("torch==2.15.0", "torch==2.14.1"), encoding="utf-8")
    wanted = ["-c", str(folder / "constraints.txt"), f"{ROOT}[torch,testing]", *PLUGINS]
    return interpreter_with(wanted, folder / "environment", NAME)


def test_the_bridge_passes_its_tests(interpreter: str) -> None:
    script = "import torch; print(torch.__version__)"
    found = subprocess.run([interpreter, "-c", script], capture_output=True, text=True, timeout=300, check=True)
    assert found.stdout.startswith("2.14.")
    paths = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    command = [interpreter, "-m", "pytest", "-n", "2", "-m", "not timed and not long", "tests/torch_bridge"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=2400, check=False, env=paths)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
