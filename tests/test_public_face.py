"""The public names: importable as the reference writes them, one function a command, nothing else in ``dir``."""

from __future__ import annotations

import importlib
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import networkx as nx
import pytest

import schedverify as sv
from schedverify.cli import main
from schedverify.cli.app import application
from schedverify.formats import report_data

ROOT = Path(__file__).parents[1]
REFERENCE = (ROOT / "docs" / "reference" / "python.md").read_text(encoding="utf-8")
DOCUMENTED = re.findall(r"^\.\. auto\w+:: (\S+)$", REFERENCE, re.MULTILINE)
ROOMS = {"conformance", "lowering", "models", "profiling", "runner", "testing", "torch", "torch_bridge"}
app = application()
PROBLEM = sv.Problem.chain(ranks=2, microbatches=2, forward=1, backward=2)
SCHEDULE = sv.generate("1f1b", PROBLEM)
MODEL = "llama-2-7b"


@pytest.mark.parametrize("name", DOCUMENTED)
def test_what_the_reference_names_is_importable_as_written(name: str) -> None:
    module, _, attribute = name.rpartition(".")
    if module in ("schedverify.runner", "schedverify.profiling", "schedverify.torch_bridge"):
        pytest.importorskip("torch", reason="torch is not installed")
    assert hasattr(importlib.import_module(module), attribute)


def test_documented_names_stand_in_the_package_or_in_a_public_room() -> None:
    assert len(DOCUMENTED) > 100
    assert {name.partition(".")[2].rpartition(".")[0] for name in DOCUMENTED} == ROOMS - {"torch"} | {""}


def test_every_public_name_is_in_the_reference() -> None:
    assert set(sv.__all__) - {name.rpartition(".")[2] for name in DOCUMENTED} == set()


def test_pages_and_examples_name_public_rooms_alone() -> None:
    dotted = re.compile(r"(?<![/\w-])schedverify\.([a-z_]+)\.[A-Za-z_.]+|from schedverify\.([a-z_]+)[\w.]* import")
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "docs").rglob("*.py"),
             *(ROOT / "examples").rglob("*.py")]  # fmt: skip
    maker = ROOT / "docs" / "reference" / "make.py"  # makes pages of what is not public: keys, rules, commands
    found = {
        (str(page.relative_to(ROOT)), match[0])
        for page in pages
        if page != maker and "changelog" not in page.name
        for match in dotted.finditer(page.read_text(encoding="utf-8"))
        if (match[1] or match[2]) not in ROOMS | {"testing", "pytest_plugin"}
    }
    assert found == set()


def test_dir_has_public_names_alone() -> None:
    assert set(dir(sv)) == {*sv.__all__, *ROOMS, "__version__"}


def test_rooms_are_loaded_when_they_are_used() -> None:
    code = (
        "import sys, schedverify as sv\n"
        "print([name for name in sys.modules if name.startswith('schedverify.')])\n"
        "sv.lowering.add_communication; sv.models.load_model; sv.conformance.load_run\n"
        "from schedverify import models\n"
        "print(sv.models is models is sys.modules['schedverify.models'], 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.splitlines() == ["['schedverify.core']", "True False"]


def test_the_bridge_has_two_names() -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    assert sv.torch is sv.torch_bridge is importlib.import_module("schedverify.torch_bridge")
    assert callable(sv.torch.from_torch)


def test_errors_are_named_as_they_are_imported() -> None:
    with pytest.raises(sv.InputError) as caught:
        sv.Schedule.parse("?")
    assert f"{type(caught.value).__module__}.{type(caught.value).__qualname__}" == "schedverify.InputError"


class TestEachCommandIsAFunction:
    def test_of_its_name(self) -> None:
        commands = {name for name in app if not name.startswith("-")}
        assert commands <= set(sv.__all__)

    @pytest.mark.parametrize(
        ("name", "other"),
        [
            ("verify", {"output_format", "verbose", "shape", "of_torch"}),
            ("optimize", {"output", "explain", "parts", "output_format"}),
            ("partition", {"output", "to", "megatron_layout", "plan", "output_format"}),
            ("simulate", {"output_format"}),
            ("draw", {"output"}),
            ("convert", set()),
            ("lint", {"output_format", "verbose"}),
            ("conform", {"traces", "output", "draw", "output_format"}),
            ("trace", {"output", "schedule", "time_limit", "output_format"}),
            ("lower", {"output", "unshard", "lookahead", "reduce_grad"}),
            ("generate", {"output", "shape", "of_torch"}),
            ("families", {"output_format"}),
            ("profile", {"output", "tick", "optimizer_copies", "output_format"}),
            ("run", set()),
        ],
    )
    def test_with_its_arguments(self, name: str, other: set[str]) -> None:
        """``other`` is what the command prints and writes beside what the function returns."""
        command = inspect.signature(inspect.unwrap(app[name].default_command)).parameters
        assert set(command) - set(inspect.signature(getattr(sv, name)).parameters) == other

    def test_generate(self, capsys) -> None:
        assert sv.generate("1f1b", ranks=4, microbatches=8) == sv.generate(
            "1f1b", sv.Problem.chain(ranks=4, microbatches=8)
        )
        shape = {"ranks": 2, "microbatches": 3, "virtual": 3, "forward": 2, "backward": 3}
        made = sv.generate("interleaved-1f1b", **shape)
        assert made == sv.generate("interleaved-1f1b", sv.Problem.chain(**shape))
        main(
            [
                "generate",
                "interleaved-1f1b",
                *(word for name, value in shape.items() for word in (f"--{name}", str(value))),
            ]
        )
        assert capsys.readouterr().out == f"{made}\n"
        costs = {"forward": 5, "backward_input": 1, "backward_weight": 9}
        split = sv.Problem.chain(ranks=3, microbatches=4, form="split", **costs)
        assert sv.generate("zb-1p", ranks=3, microbatches=4, **costs) == sv.generate("zb-1p", split)
        assert sv.generate("zb-1p", split) != sv.generate("zb-1p", ranks=3, microbatches=4)

    @pytest.mark.parametrize(
        ("arguments", "error", "message"),
        [
            ({}, TypeError, "generate needs a Problem, found None"),
            ({"ranks": 2}, sv.InputError, r"microbatches: missing \(generate takes a problem, or both numbers\)"),
            ({"forward": 2}, sv.InputError, "ranks: missing.*\n.*microbatches: missing"),
            (
                {"problem": PROBLEM, "virtual": 2},
                sv.InputError,
                r"virtual: stands beside a problem \(give one of them\)",
            ),
            ({"problem": 4, "ranks": 2}, TypeError, "generate needs a Problem, found an int"),
            ({"ranks": 0, "microbatches": 2}, sv.InputError, "ranks: expected a whole number from 1"),
            ({"ranks": 2, "microbatches": 2, "virtual": 2}, sv.InputError, "1f1b"),
        ],
    )
    def test_generate_takes_a_problem_or_a_shape(self, arguments, error, message) -> None:
        with pytest.raises(error, match=message):
            sv.generate("1f1b", **arguments)

    def test_convert(self, tmp_path) -> None:
        source, target = tmp_path / "s.txt", tmp_path / "s.csv"
        sv.save(SCHEDULE, source)
        assert sv.convert(source, target, problem=PROBLEM) == SCHEDULE
        assert sv.load(target) == SCHEDULE
        plan = sv.convert(SCHEDULE, tmp_path / "plan.json", problem=PROBLEM)
        assert sv.load(tmp_path / "plan.json") == plan == sv.plan_of(SCHEDULE, PROBLEM)
        timeline = sv.convert(SCHEDULE, tmp_path / "trace.json", problem=PROBLEM, to="trace")
        assert timeline == sv.simulate(SCHEDULE, PROBLEM)
        idle = tmp_path / "idle.csv"
        idle.write_bytes(b"0F0,,,0B0\r\n,1F0,1B0\r\n")
        sv.convert(idle, target)
        assert target.read_bytes() == idle.read_bytes()

    def test_lint(self, tmp_path) -> None:
        case = tmp_path / "case.schedule.toml"
        text = 'schedule = "0F0 0B0"\n[problem]\nranks = 1\nmicrobatches = 1\ncosts = { forward = 1, backward = 2 }\n'
        case.write_text(text, encoding="utf-8")
        ((path, found, report, error),) = sv.lint([case])
        assert (path, found.path, report.ok, report == found.report(), error) == (case, case, True, True, None)

    def test_new(self, capsys) -> None:
        main(["new"])
        assert sv.new() == capsys.readouterr().out
        assert sv.new().startswith("#")

    def test_verify(self, tmp_path, capsys) -> None:
        sv.save(SCHEDULE, tmp_path / "s.txt")
        sv.save(PROBLEM, tmp_path / "p.toml")
        main(["verify", str(tmp_path / "s.txt"), "-p", str(tmp_path / "p.toml"), "--format", "json"])
        assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(report_data(sv.verify(SCHEDULE, PROBLEM))))


def test_networkx_has_the_graph_of_a_lowered_schedule() -> None:
    graph = sv.dependency_graph(PROBLEM, sv.lower(SCHEDULE, PROBLEM), discipline="pair")
    assert isinstance(graph, nx.DiGraph)
    assert all(isinstance(node, sv.LoweredEvent) for node in graph)


INSTALLERS = re.compile(
    r"\b(?:pip3?|pipx|uvx?|conda|mamba|poetry|pdm|easy_install)\b[^\n`]{0,40}?(?<![\w./-])['\"]?schedverify\b(?![/:])"
)


def test_nobody_is_told_to_install_from_an_index() -> None:
    """The package is on no index: whatever names it there would be somebody else's."""
    found = []
    for path in (
        path for form in ("*.md", "*.yml", ".pre-commit*", "*/**/*.py", "*/**/*.md") for path in ROOT.glob(form)
    ):
        if path.name != "CHANGELOG.md" and ".git" not in path.parts and path != Path(__file__):
            found += [f"{path}: {match[0]}" for match in INSTALLERS.finditer(path.read_text(encoding="utf-8"))]
    assert found == []


@pytest.mark.parametrize(
    ("text", "tells"),
    [
        ("pip install schedverify", True), ("pip install 'schedverify[torch]'", True),
        ("uv pip install schedverify", True), ("pipx run schedverify", True), ("uvx schedverify verify", True),
        ("pip install -U \"schedverify>=1\"", True),
        ("pip install .", False), ("pip install ./schedverify", False), ("pip install '.[torch]'", False),
        ("in a checkout of schedverify: pip install .", False), ("pip install /x/schedverify", False),
    ],
)  # fmt: skip
def test_the_words_of_installing_from_an_index_are_known(text: str, tells: bool) -> None:
    assert bool(INSTALLERS.search(text)) is tells
