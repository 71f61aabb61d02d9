"""Why a plan is as it is: what it rests on, what would make it better, or which limits clash where there is none."""

from schedverify.planner.explanation._explain import explain

__all__ = ["explain"]
