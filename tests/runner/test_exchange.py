"""What comes from another rank is data of a bounded size: real processes that send too much, nonsense, or an object."""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="torch is not installed")

import torch.distributed as dist  # noqa: E402

from schedverify import Problem, generate  # noqa: E402
from schedverify.core.errors import SchedverifyError  # noqa: E402
from schedverify.core.trace import BoundaryTransfer, StepSpan  # noqa: E402
from schedverify.planner.plans import plan_of  # noqa: E402
from schedverify.runner import Runner, gather_trace  # noqa: E402
from schedverify.runner.agreement import make_on_every_rank  # noqa: E402
from schedverify.runner.control.exchange import MOST_COLLECTED, SIZE, as_list, collect, exchange, transfer, whole  # noqa: E402
from schedverify.runner.control.run_logs import gather_log  # noqa: E402
from schedverify.runner.p2p import headers  # noqa: E402
from schedverify.runner.step_result import StepResult  # noqa: E402
from support import profile_jobs  # noqa: E402
from support import runner_jobs as jobs  # noqa: E402
from support.gloo_pool import GlooPool  # noqa: E402

pytestmark = pytest.mark.xdist_group("runner")
ROOT = Path(__file__).parents[2]
TIMEOUT = 10.0
PROBLEM = Problem.chain(ranks=2, microbatches=2)
PLAN = plan_of(generate("1f1b", PROBLEM), PROBLEM)


@pytest.fixture(scope="module")
def pool() -> Iterator[GlooPool]:
    with GlooPool(2) as pool:
        yield pool


def error_of(act: Callable[[], Any]) -> str:
    try:
        act()
    except SchedverifyError as error:
        return f"{type(error).__name__}: {error}"
    return ""


def values(pool: GlooPool, job: Callable[..., Any], *arguments: Any) -> list[Any]:
    outcomes = pool.run(job, *arguments, timeout=60)
    assert not any(outcome.error or outcome.hung for outcome in outcomes), outcomes
    return [outcome.value for outcome in outcomes]


# Data of all ranks on rank 0


def listed(data: Any) -> list[int]:
    return [whole(each) for each in as_list(data)]


def collected(rank: int, most: int, data: list[Any]) -> Any:
    try:
        return collect(data[rank], dist.group.WORLD, TIMEOUT, "the test", listed, most=most)
    except SchedverifyError as error:
        return f"{type(error).__name__}: {error}"


def test_data_of_all_ranks_comes_to_the_first(pool: GlooPool) -> None:
    assert values(pool, collected, 100, [[1, 2], [3]]) == [[[1, 2], [3]], None]


def test_too_much_is_refused_at_both_ends(pool: GlooPool) -> None:
    told = "RunError: rank 1, the test: it sends 9 bytes, where 1 to 8 are taken"
    assert values(pool, collected, 8, [[1], [1, 2, 3]]) == [told, told]


@pytest.mark.parametrize("data", [3, "x", {"a": 1}, [1, "x"], [True], [1.5], [None], [[1]]], ids=str)
def test_nonsense_is_told_of_its_rank(pool: GlooPool, data: Any) -> None:
    told, none = values(pool, collected, 100, [[1], data])
    assert told.startswith("RunError: rank 1, the test: what it sent cannot be read (TypeError")
    assert none is None


def announces(rank: int, size: int, content: bytes) -> tuple[str, int]:
    """Be a rank that says that it sends so many bytes, and sends others; return the error, and the memory it took."""
    import resource

    world = dist.group.WORLD
    if rank:
        transfer(torch.tensor([size]), 0, world, TIMEOUT, "the test", sends=True)
        if content:
            transfer(torch.frombuffer(bytearray(content), dtype=torch.uint8), 0, world, TIMEOUT, "the test", sends=True)
        return "", 0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    told = error_of(lambda: collect([], world, TIMEOUT, "the test", listed))
    return told, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024


@pytest.mark.parametrize("size", [0, -1, -(1 << 63), (1 << 63) - 1, 1 << 40, MOST_COLLECTED + 1])
def test_a_size_is_looked_at_before_room_is_made(pool: GlooPool, size: int) -> None:
    (told, megabytes), _ = values(pool, announces, size, b"")
    assert told == f"RunError: rank 1, the test: it sends {size} bytes, where 1 to {MOST_COLLECTED} are taken"
    assert megabytes < 100


CONTENTS = {
    "a pickle": b"cos\nsystem\n(S'touch pwned'\ntR.",
    "no UTF-8": b"\xff\xfe[1]",
    "no JSON": b"[1, 2",
    "zeros": b"\0" * 50,
    "deep": b"[" * 100_000,
    "a long number": b"[" + b"9" * 10_000 + b"]",
    "NaN": b"[NaN]",
    "two": b"[1][2]",
    "blank": b" ",
}


@pytest.mark.parametrize("case", CONTENTS)
def test_what_is_no_json_is_told_of_its_rank(pool: GlooPool, case: str) -> None:
    content = CONTENTS[case]
    (told, _), _ = values(pool, announces, len(content), content)
    assert told.startswith("RunError: rank 1, the test: what it sent cannot be read (")


# The trace, the boundary log, the profile, and the loss

SPAN = [1, 0, "1F0", 5, 6]
ROW = [0, 1, 0, False, True, False, [["float32", [2, 3]]], 24, []]
WRONG_SPANS = [[], [SPAN], [[SPAN, SPAN[:4]]], [["x" * 5]], [[[1, 0, 2, 5, 6]]], [[[1.0, 0, "1F0", 5, 6]]], "x", None]
WRONG_ROWS = [
    [],
    [[ROW[:8]]],
    [[[*ROW[:3], 0, *ROW[4:]]]],
    [[[*ROW[:6], [["f"]], *ROW[7:]]]],
    [[[*ROW[:8], ["x"]]]],
    {},
]


def sends_instead(rank: int, gather: Callable[[], Any], data: Any) -> str:
    """Be a rank that sends other data than is asked for; rank 0 gathers."""
    if rank == 0:
        return error_of(gather)
    content = json.dumps(data).encode()
    transfer(torch.tensor([len(content)]), 0, dist.group.WORLD, TIMEOUT, "the test", sends=True)
    transfer(torch.frombuffer(bytearray(content), dtype=torch.uint8), 0, dist.group.WORLD, TIMEOUT, "", sends=True)
    return ""


def wrong_trace(rank: int, data: Any) -> str:
    steps = [[StepSpan(0, 0, "0F0", 1, 2)]]
    return sends_instead(rank, lambda: gather_trace("d", steps, (None, None), dist.group.WORLD, TIMEOUT), data)


@pytest.mark.parametrize("data", [[0, each] for each in WRONG_SPANS] + [[0], [0.5, [[SPAN]]], {"a": 1}], ids=str)
def test_no_trace_is_told_of_its_rank(pool: GlooPool, data: Any) -> None:
    told, _ = values(pool, wrong_trace, data)
    assert told.startswith("RunError: rank 1, the trace of the run: what it sent cannot be read (")


def wrong_log(rank: int, data: Any) -> str:
    steps = [[BoundaryTransfer(0, 1, 0, False, True, False, (), 0)]]
    return sends_instead(rank, lambda: gather_log("d", steps, dist.group.WORLD, TIMEOUT), data)


@pytest.mark.parametrize("data", WRONG_ROWS, ids=str)
def test_no_boundary_log_is_told_of_its_rank(pool: GlooPool, data: Any) -> None:
    told, _ = values(pool, wrong_log, data)
    assert told.startswith("RunError: rank 1, the boundary log: what it sent cannot be read (")


def without_pickle(rank: int) -> Any:
    """Profile where nothing can be made an object of what came, or bytes of an object."""
    import pickle

    from torch.distributed import distributed_c10d

    def forbidden(*_: Any, **__: Any) -> Any:
        raise AssertionError("an object is pickled")

    kept = pickle.loads, pickle.dumps, distributed_c10d._object_to_tensor, distributed_c10d._tensor_to_object
    pickle.loads = pickle.dumps = forbidden
    distributed_c10d._object_to_tensor = distributed_c10d._tensor_to_object = forbidden
    try:
        found = profile_jobs.profile_of_two(rank)
    finally:
        pickle.loads, pickle.dumps, distributed_c10d._object_to_tensor, distributed_c10d._tensor_to_object = kept
    return found


def test_a_profile_of_several_ranks_pickles_nothing(pool: GlooPool) -> None:
    found, none = values(pool, without_pickle)
    assert (found.ranks, [link.ranks for link in found.links], none) == (2, [(0, 1)], None)


def wrong_profile(rank: int, data: Any) -> str:
    import schedverify.profiling.session as session

    if rank == 0:
        return error_of(lambda: profile_jobs.profile_of_two(rank))
    kept = session._gathered
    session._gathered = lambda own, timeout: (sends_instead(1, lambda: None, data), [])[1]  # type: ignore[assignment]
    try:
        profile_jobs.profile_of_two(rank)
    finally:
        session._gathered = kept
    return ""


@pytest.mark.parametrize(
    "data",
    [[], [[], [[], []], 8], [[{}, {}], [[], []], 8], [[{"forward": []}] * 2, [[], []], 8], [[3, 4], [[], []], 8], "x"],
    ids=str,
)
def test_no_measurements_are_told_of_their_rank(pool: GlooPool, data: Any) -> None:
    told, _ = values(pool, wrong_profile, data)
    assert told.startswith("RunError: rank 1, the profile: what it sent cannot be read (")


def wrong_loss(rank: int, text: str) -> str:
    runner = Runner(PLAN, jobs.modules_of(PROBLEM, {})[rank : rank + 1], jobs.mean_square, timeout=TIMEOUT)
    if rank == 0:
        told = error_of(lambda: runner.whole_loss(StepResult(loss=1.0)))
    else:
        exchange(text, runner.control, TIMEOUT)
        told = ""
    return told


@pytest.mark.parametrize("text", ["", "x", "0x1p99999", "__import__('os')", "1_0"])
def test_no_loss_is_told_of_its_rank(pool: GlooPool, text: str) -> None:
    told, _ = values(pool, wrong_loss, text)
    assert told.startswith("RunError: rank 1, the loss of the step: what it sent is no number")
    pool.end()


# Admission


def answers_oddly(rank: int, text: str) -> str:
    make = partial(make_on_every_rank, dict, "", lambda _: {}, dist.group.WORLD, TIMEOUT)
    if rank == 0:
        return error_of(make)
    exchange(text, dist.group.WORLD, TIMEOUT, size=1 << 16)
    return ""


@pytest.mark.parametrize(
    "text", ["", "no newline", "one\nnewline", "\n" * 0, "x" * 70_000, "\udcff".encode("utf-8", "replace").decode()]
)
def test_an_answer_without_its_lines_is_told_of_its_rank(pool: GlooPool, text: str) -> None:
    told, _ = values(pool, answers_oddly, text)
    assert told == "RefusedError: the plan is not run:\nrank 1: what it answered is no answer"


def tells_much(rank: int, stages: int) -> str:
    shared = {str(stage): f"{stage}/float32" for stage in range(stages)}
    return error_of(lambda: make_on_every_rank(dict, "", lambda _: shared, dist.group.WORLD, TIMEOUT))


def test_what_ranks_tell_of_many_stages_is_not_cut(pool: GlooPool) -> None:
    assert 600 * len("599=599/float32 ") > 2 * SIZE
    assert values(pool, tells_much, 600) == ["", ""]
    told = values(pool, tells_much, 9000)
    assert told[0] == told[1]
    assert told[0].startswith("RefusedError: the plan is not run:\nranks 0, 1: its stages' weights take ")


# Headers of tensors

HEADERS: dict[str, list[int]] = {
    "a count": [15],
    "no count": [-1],
    "a huge count": [1 << 62],
    "a text": [1, 1 << 40, 0, 0, 1, 4],
    "a text below": [1, -2, 0, 0, 1, 4],
    "a dtype": [1, 0, 99, 0, 1, 4],
    "a dtype below": [1, 0, -1, 0, 1, 4],
    "a need": [1, 0, 0, 2, 1, 4],
    "a need of whole numbers": [1, 0, 6, 1, 1, 4],
    "dimensions": [1, 0, 0, 0, 9, 1],
    "dimensions below": [1, 0, 0, 0, -1],
    "a size below": [1, 0, 0, 0, 1, -4],
    "many bytes": [1, 0, 0, 0, 1, 1 << 40],
    "too many to count": [1, 0, 0, 0, 8, *[1 << 62] * 8],
    "many of none": [1, 0, 0, 0, 3, 0, 1 << 40, 1 << 40],
    "two": [2, 0, 0, 0, 1, 4, *[0] * 7, 0, 0, 1, 1 << 60],
}


def header(words: list[int]) -> Any:
    return torch.tensor(words + [0] * (headers.HEADER - len(words)))


def form_told(words: Any) -> headers.Form:
    return headers.form_in(words, b"0" * headers.text_bytes_in(words))


@pytest.mark.parametrize("case", HEADERS)
def test_a_header_of_what_there_cannot_be_is_refused(case: str) -> None:
    with pytest.raises(ValueError, match=r"^its header names "):
        form_told(header(HEADERS[case]))


def sends_header(rank: int, words: list[int]) -> str:
    """Be a rank whose header of a message says what there cannot be."""
    if rank == 0:
        headers.header_of = lambda _: [header(words)]  # type: ignore[assignment]
    runner = Runner(PLAN, jobs.modules_of(PROBLEM, {})[rank : rank + 1], jobs.mean_square, timeout=TIMEOUT)
    batch, target = jobs.data_of(PROBLEM, 2, {})
    return error_of(lambda: runner.step(batch, target))


@pytest.mark.parametrize("case", ["a count", "many bytes", "a text"])
def test_a_header_is_looked_at_before_buffers_are_made(pool: GlooPool, case: str) -> None:
    outcomes = pool.run(sends_header, HEADERS[case], timeout=60)
    pool.end()
    told = outcomes[1].value
    assert told is not None, outcomes
    assert told.startswith("RunError: rank 1, position 0 (1RECV_F0<0), peer rank 0: its header names ")


@given(st.lists(st.integers(-(1 << 63), (1 << 63) - 1) | st.integers(-1, 15), max_size=headers.HEADER))
def test_any_header_is_a_form_of_bounded_size_or_refused(words: list[int]) -> None:
    try:
        found = form_told(header(words)).members
    except ValueError:
        return
    sizes = [dtype.itemsize * math.prod(shape) for dtype, shape in found]
    assert sum(sizes) <= headers.MOST_BYTES


# Nothing is pickled on its way between ranks

OBJECTS = ("all_gather_object", "gather_object", "broadcast_object_list", "scatter_object_list", "send_object_list",
           "recv_object_list")  # fmt: skip


@pytest.mark.parametrize("folder", ["schedverify", "examples", "benchmarks"])
def test_no_collective_of_objects_is_called(folder: str) -> None:
    if not (ROOT / folder).is_dir():
        pytest.skip(f"no {folder} here")
    for path in (ROOT / folder).rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        names |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        assert names.isdisjoint(OBJECTS), path


def test_loads_of_torch_take_weights_alone() -> None:
    for path in (ROOT / "schedverify").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                assert any(each.arg == "weights_only" and ast.unparse(each.value) == "True" for each in node.keywords)
