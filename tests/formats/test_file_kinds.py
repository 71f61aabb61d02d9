"""A file of another kind than the reader's is called by its name, with the command that takes it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import schedverify as sv
from schedverify import formats
from schedverify.conversion import convert
from schedverify.core.errors import InputError
from schedverify.formats.models.cluster_files import load_cluster
from schedverify.formats.models.model_files import load_model
from schedverify.formats.outputs import dumps, report_data, search_data
from schedverify.planner.plans import plan_of
from support.run_traces import a_plan, as_predicted

MODEL = '[[layer]]\nname = "a"\nforward = 1\nbackward = 2\n'
CLUSTER = 'nodes = 1\ndevices = 8\nbatch = 64\n[device]\nlike = "h100-80gb"\n'
READERS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "a problem": ("problem", formats.load_problem),
    "a plan": ("plan", formats.load_schedule),
    "a model": ("model", load_model),
    "a cluster": ("cluster", load_cluster),
    "a trace": ("run", formats.load_run),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A file of each kind, by its kind."""
    folder = tmp_path_factory.mktemp("kinds")
    plan = a_plan()
    problem = sv.Problem.chain(ranks=2, microbatches=2)
    schedule = sv.generate("1f1b", problem)
    named = {name: folder / f"{name}.json" for name in ("problem", "plan", "run", "trace", "report", "answer", "model")}
    sv.save(problem, named["problem"])
    sv.save(plan, named["plan"])
    formats.save_run(as_predicted(plan, 1), named["run"])
    convert(schedule, named["trace"], problem=problem, to="trace")
    named["report"].write_text(dumps(report_data(sv.verify(schedule, problem))))
    named["answer"].write_text(dumps(search_data(plan_of(schedule, problem))))
    named["model"].write_text(json.dumps({"layer": [{"name": "a", "forward": 1, "backward": 2}]}))
    for name, text in (("problem.toml", problem_text(problem)), ("model.toml", MODEL), ("cluster", CLUSTER)):
        named[name] = folder / f"{name.removesuffix('.toml')}.toml"
        named[name].write_text(text)
    named["torch"] = folder / "torch.json"
    named["torch"].write_text('{"schemaVersion": 1, "traceEvents": []}')
    return named


def problem_text(problem: sv.Problem) -> str:
    from schedverify.formats.problem_files import to_toml

    return to_toml(problem)


CALLED = {
    "problem": "a problem", "problem.toml": "a problem", "plan": "a plan", "run": "a trace", "trace": "a trace",
    "torch": "a trace", "report": "a report", "answer": "the answer of a search", "model": "a model",
    "model.toml": "a model", "cluster": "a cluster",
}  # fmt: skip
OWN = {  # what each reader takes itself
    "a problem": {"problem", "problem.toml", "plan"}, "a plan": {"plan"}, "a model": {"model", "model.toml"},
    "a cluster": {"cluster"}, "a trace": {"run"},
}  # fmt: skip


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("given", CALLED)
def test_each_reader_names_what_it_is_given(files: dict[str, Path], reader: str, given: str) -> None:
    path, load = files[given], READERS[reader][1]
    if given in OWN[reader]:
        load(path)
        return
    with pytest.raises(InputError) as caught:
        load(path)
    told = str(caught.value)
    assert told.startswith(f"{path}: ")
    if reader == "a trace" and given in ("trace", "torch"):  # traces both, of which one is of a run
        assert "otherData" in told
    elif path.suffix == ".toml" and reader == "a trace":
        assert "no JSON" in told
    else:
        assert told.startswith(f"{path}: {CALLED[given]}, where ")
        assert "\n" not in told


def test_what_is_of_no_kind_is_told_key_by_key(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"schema": 1}')
    with pytest.raises(InputError, match=r"x.json: schema: unknown key \(a problem takes "):
        formats.load_problem(tmp_path / "x.json")


def test_a_wrong_key_does_not_make_a_file_of_another_kind(tmp_path: Path) -> None:
    text = "ranks = 2\nmicrobatches = 2\nnodes = 3\n[costs]\nforward = 1\nbackward = 2\n"
    (tmp_path / "p.toml").write_text(text)
    with pytest.raises(InputError, match=r"p.toml: nodes: unknown key"):
        formats.load_problem(tmp_path / "p.toml")
