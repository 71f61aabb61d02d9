"""The bridge's tests on torch 2.14, which lies between the two versions that ``.ci/run`` tests it with.

They run in an environment of their own: that of the interpreter named by ``SCHEDVERIFY_TORCH_2_14_PYTHON``, which needs
pytest, pytest-timeout, pytest-xdist and hypothesis beside torch, else one that is made here, of some gigabytes.
"""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

pytestmark = [pytest.mark.long, pytest.mark.timeout(3600)]
ROOT = Path(__file__).parents[2]
NAME = "SCHEDVERIFY_TORCH_2_14_PYTHON"
PLUGINS = ("pytest-timeout", "pytest-xdist")


@pytest.fixture(scope="module")
def interpreter(tmp_path_factory: pytest.TempPathFactory) -> str:
    if NAME in os.environ:
        return os.environ[NAME]
    folder = tmp_path_factory.mktemp("torch")
    venv.create(folder, with_pip=True)
    python = str(folder / ("Scripts" if sys.platform == "win32" else "bin") / "python")
    pins = (ROOT / "constraints-torch-2.15.txt").read_text(encoding="utf-8")
    (folder / "constraints.txt").write_text(pins.replace("torch==2.15.0", "torch==2.14.1"), encoding="utf-8")
    wanted = ["-c", str(folder / "constraints.txt"), f"{ROOT}[torch,testing]", *PLUGINS]
    plain = os.environ | {
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_CONSTRAINT": "",
    }  # a machine's own pins name another torch
    subprocess.run([python, "-m", "pip", "install", "-q", *wanted], check=True, env=plain, timeout=1500)
    return python


def test_the_bridge_passes_its_tests(interpreter: str) -> None:
    script = "import torch; print(torch.__version__)"
    found = subprocess.run([interpreter, "-c", script], capture_output=True, text=True, timeout=300, check=True)
    assert found.stdout.startswith("2.14.")
    paths = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    command = [interpreter, "-m", "pytest", "-n", "2", "-m", "not timed and not long", "tests/torch_bridge"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=2400, check=False, env=paths)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
