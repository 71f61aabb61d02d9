"""The runner: verified plans on torch.distributed. Thin: it executes a plan and nothing else."""

from schedverify.runner.control.clock_sync import read_clock
from schedverify.runner.control.run_logs import gather_trace
from schedverify.runner.failures import RefusedError, RunError, TimedOutError
from schedverify.runner.p2p.messages import Crossing
from schedverify.runner.runner import Runner
from schedverify.runner.step_result import StepResult

__all__ = [
    "Crossing", "RefusedError", "RunError", "Runner", "StepResult", "TimedOutError", "gather_trace", "read_clock",
]  # fmt: skip
