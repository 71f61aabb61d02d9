"""ResNet-50 of torchvision and a ViT of timm, in pipelines, have the gradients of one process.

They need a torch for which there is a torchvision, in an environment of its own: that of the interpreter named by
``SCHEDVERIFY_VISION_PYTHON``, else one that is made here, of some gigabytes.
"""

from __future__ import annotations

import os
import subprocess

import pytest

from support.environments import ROOT, interpreter_with

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("vision"), pytest.mark.timeout(1800)]
NEEDS = ("torch==2.14.1", "torchvision==0.29.1", "timm")
NAME = "SCHEDVERIFY_VISION_PYTHON"


@pytest.fixture(scope="module")
def interpreter(tmp_path_factory: pytest.TempPathFactory) -> str:
    return interpreter_with([*NEEDS, str(ROOT)], tmp_path_factory.mktemp("vision"), NAME)


@pytest.mark.parametrize("schedule", ["1f1b", "zb-h1", "interleaved-1f1b", "zb-v"])
@pytest.mark.parametrize("model", ["resnet50", "vit"])
def test_gradients_and_buffers_are_those_of_one_process(interpreter: str, model: str, schedule: str) -> None:
    script = ROOT / "tests" / "support" / "vision_models.py"
    paths = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]), "OMP_NUM_THREADS": "1"}
    command = [interpreter, str(script), model, schedule]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False, env=paths)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split()[-1]) < 1e-9
