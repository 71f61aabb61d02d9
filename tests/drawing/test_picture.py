"""What a picture shows, in letters and SVG: exactly for small cases, safely for hostile ones, quickly for big ones."""

from __future__ import annotations

import io
import re
import unicodedata
import xml.etree.ElementTree as ET
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rich.console import Console

from schedverify.core.errors import InputError
from schedverify.core.op import Kind, Op
from schedverify.core.problem import Problem
from schedverify.core.result import Plan, PropertyResult, Report, Scope, Status, Verdict, Violation
from schedverify.core.schedule import Schedule
from schedverify.drawing import Drawing, beside, draw
from schedverify.drawing.captions import axis
from schedverify.drawing.labels import clean, colour, number, percent
from schedverify.drawing.panel import PanelRow
from schedverify.drawing.raster import runs, squeezed, stretched
from schedverify.generators import families, family, generate
from schedverify.simulator.engine import simulate
from schedverify.verifier.verification import verify
from support.call_counts import calls_of

SVG = "{http://www.w3.org/2000/svg}"
LEFT, PLOT = 84.0, 960.0
HOSTILE = "<script>alert('x')</script> & \x1b[31mred\x1b[0m \x00\x07 \u202eback \ud800 ]]> \n\r\n line"


def problem_of(ranks: int = 2, microbatches: int = 2, **keys: object) -> Problem:
    return Problem.chain(ranks=ranks, microbatches=microbatches, **keys)


def one_f_one_b(ranks: int = 2, microbatches: int = 2, **keys: object) -> Drawing:
    problem = problem_of(ranks, microbatches, **keys)
    return draw(generate("1f1b", problem), problem)


def report_of(*violations: Violation) -> Report:
    return Report((PropertyResult("SV401", "in flight", Verdict.VIOLATED, Scope.EVERY_DURATION, violations),))


def steps_of(svg: str) -> list[ET.Element]:
    """Return the bars of an SVG: the rectangles that have a tooltip and a fill of their own."""
    found = ET.fromstring(svg).iter(f"{SVG}rect")
    return [rect for rect in found if rect.find(f"{SVG}title") is not None and rect.get("fill")]


def title_of(rect: ET.Element) -> str:
    return rect.findtext(f"{SVG}title") or ""


def texts_of(svg: str) -> list[str]:
    return [element.text or "" for element in ET.fromstring(svg).iter(f"{SVG}text")]


# Letters


def test_a_small_timeline_letter_by_letter() -> None:
    assert one_f_one_b(name="tiny").text(80) == "\n".join(
        [
            "tiny: 2 ranks, 2 micro-batches",
            "ticks   0              5             in flight  memory",
            "rank 0  F0 F1 ......B0--- ...B1---           2       2",
            "rank 1  ...F0 B0--- F1 B1--- ....            1       1",
            "makespan 9 ticks, span 9 ticks, bubble 33.3%, peak in flight 2, peak memory 2",
            "units",
            "F forward   B backward   . idle",
        ]
    )


def test_a_split_backward_with_a_latency_letter_by_letter() -> None:
    problem = problem_of(2, 2, backward_input=2, backward_weight=1, latency=1, tick="ms")
    schedule = Schedule.parse("0F0 0F1 0I0 0W0 0I1 0W1\n1F0 1I0 1F1 1I1 1W0 1W1")
    text = draw(schedule, problem, title="split").text(80)
    assert text.splitlines() == [
        "split",
        "ms      0              5              10      in flight  memory",
        "rank 0  F0 F1 ............I0--- W0 I1--- W1           2       2",
        "rank 1  ......F0 I0--- F1 I1--- W0 W1 ....            1       1",
        "makespan 12 ms, span 12 ms, bubble 33.3%, peak in flight 2, peak memory 2 units",
        "F forward   I backward, input part   W backward, weight part   . idle",
    ]


def test_two_stages_on_a_rank_have_small_and_large_letters() -> None:
    problem = problem_of(2, 2, virtual=2)
    lines = draw(generate("interleaved-1f1b", problem), problem).text(60).splitlines()
    assert lines[2].startswith("rank 0  F0 F1 f0 f1 ")
    assert lines[3].startswith("rank 1  ...F0 F1 f0 b0--")
    assert " ".join(lines[-2:]) == "paler: later stages of a rank; small letters: every second of them"


def test_stages_are_named_where_there_is_room() -> None:
    problem = problem_of(2, 2, virtual=2)
    lines = draw(generate("interleaved-1f1b", problem), problem).text(120).splitlines()
    assert lines[2].startswith("rank 0  0F0 0F1 2F0 2F1 ")


def test_every_step_has_its_number_for_four_ranks_and_eight_micro_batches() -> None:
    for name in ("gpipe", "1f1b", "eager-1f1b", "zb-h1", "zb-h2"):
        problem = family(name).problem(4, 8)
        schedule = generate(name, problem)
        lines = draw(schedule, problem).text(80).splitlines()
        for rank in range(4):
            row = next(line for line in lines if line.startswith(f"rank {rank}"))
            shown = re.findall(r"[FBIW]\d+", row)
            assert shown == [str(step)[1:] for step in schedule.steps(rank)]


def test_eight_ranks_in_microseconds_on_a_hundred_columns() -> None:
    costs = {"forward": 18522, "backward_input": 18086, "backward_weight": 9337}
    problem = problem_of(8, 24, **costs, latency=601, tick="us", activation=2, weight_stash=1)
    lines = draw(generate("zb-h1", problem), problem).text(100).splitlines()
    assert lines[1].split() == ["ms", *(str(ms) for ms in range(0, 1201, 200)), "in", "flight", "memory"]
    rows = [line for line in lines if line.startswith("rank ")]
    assert re.match(r"rank 0  F{7,8}\.{6,8}[FIW.]+ +8 +\d+", rows[0])
    assert re.match(r"rank 7  \.{6,7}F[FIW-]+\.* +\d +\d+", rows[7])
    assert re.match(r"makespan 1,\d{3},\d{3} us, span 1,", lines[10])
    assert all(len(line) <= 100 for line in lines)


def test_the_kind_that_fills_most_of_a_cell_is_shown() -> None:
    problem = problem_of(1, 1, forward=60, backward=340)
    rows = [line for line in draw(Schedule.parse("0F0 0B0"), problem).text(40).splitlines() if line.startswith("rank")]
    assert rows == ["rank 0  F0 B0--------------"]
    problem = problem_of(1, 2, forward=1001, backward=48_999)
    row = draw(Schedule.parse("0F0 0F1 0B0 0B1"), problem).text(40).splitlines()[2]
    assert row == "rank 0  FB0-------------B1--------------"


@pytest.mark.parametrize("width", [1, 40, 57, 80, 100, 200])
@pytest.mark.parametrize("shape", [(1, 1), (4, 8), (16, 40)])
def test_no_line_is_wider_than_asked_for(width: int, shape: tuple[int, int]) -> None:
    drawing = one_f_one_b(*shape, name="a rather long name " * 9)
    lines = drawing.text(width).splitlines()
    assert max(map(len, lines)) <= max(width, 40)
    assert lines == [line.rstrip() for line in lines]


@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 9), st.sampled_from("FBIW")), max_size=12), st.integers(1, 30)
)
@example([(0, 1, "B"), (0, 0, "F"), (2, 2, "F")], 1)
@settings(max_examples=200, deadline=None)
def test_a_cell_shows_a_step_of_the_kind_that_fills_most_of_it(steps: list[tuple[int, int, str]], cells: int) -> None:
    starts, ends, words, now = [], [], [], 0
    for microbatch, (idle, length, kind) in enumerate(steps):
        starts.append(now + idle)
        now += idle + length
        ends.append(now)
        words.append(Op(Kind[kind], 0, microbatch).pack())
    arrays = [np.array(values, dtype=np.int64) for values in (words, starts, ends)]
    scale = squeezed(max(now, 1), cells) if now > cells else stretched(max(now, 1), 1, 1)
    shown = [run.position for run in runs(PanelRow(0, *arrays, {}), scale) for _ in range(run.last - run.first)]
    assert len(shown) == scale.cells
    for cell, position in enumerate(shown):
        low, high = scale.edges[cell], scale.edges[cell + 1]
        overlaps = [max(min(end, high) - max(start, low), 0) for start, end in zip(starts, ends, strict=True)]
        by_kind = Counter({kind: 0 for _, _, kind in steps})
        for (_, _, kind), overlap in zip(steps, overlaps, strict=True):
            by_kind[kind] += int(overlap)
        idle = int(high - low) - sum(by_kind.values())
        if position == -1:
            assert idle > max(by_kind.values(), default=0) or high == low
        else:
            assert overlaps[position] > 0
            assert by_kind[steps[position][2]] == max(by_kind.values()) >= idle


def test_the_order_stands_in_where_there_is_no_timeline() -> None:
    schedule = Schedule.parse("0F0 0B0 0F1 0B1\n1F0 1F1 1B0 1B1")
    problem = problem_of()
    assert draw(schedule, problem, report=verify(schedule, problem)).text(100).splitlines() == [
        "2 ranks, 2 micro-batches",
        "positions  0",
        "rank 0     F0 B0 F1 B1",
        "              ^1",
        "rank 1     F0 F1 B0 B1",
        "              ^1",
        "remark: the order of the steps, without times: the schedule cannot run to its end as a whole",
        "^1 SV201 rank 0 waits at position 1 (0B0) for 1B0; rank 1 waits at position 1 (1F1) for 0F1",
        "F forward   B backward",
    ]


def test_without_a_report_the_obstacle_is_told() -> None:
    text = draw(Schedule.parse("0F0\n1F0 1B0"), problem_of(2, 1)).text(100)
    assert "remark: the order of the steps, without times: " in text
    assert "stage 0" in text


def test_steps_of_foreign_stages_and_communication_in_an_order() -> None:
    schedule = Schedule.parse("0F0 0SEND_F0 1B0 [0SEND_F1;0RECV_B0] 0UNSHARD\n1RECV_F0 1F0 1B0 1SEND_B0\n-")
    lines = draw(schedule, problem_of(3, 2)).text(100).splitlines()
    assert lines[2] == "rank 0     F0  >F0 1B0 #   U"
    assert lines[3] == "rank 1     <F0 F0  B0  >B0"
    assert lines[4] == "rank 2"
    assert "# communications launched together" in lines[-1] + lines[-2]


def test_violations_without_a_place_are_listed_and_those_of_a_rank_marked_at_it() -> None:
    problem = problem_of()
    report = report_of(
        Violation("SV103", "1W0 stands nowhere", 1), Violation("SV501", "14 is claimed"), Violation("SV401", "x", 0, 99)
    )
    lines = draw(generate("1f1b", problem), problem, report=report).text(100).splitlines()
    assert lines[4] == "^1"
    assert lines[6:9] == ["^1 SV103 1W0 stands nowhere", "^2 SV501 14 is claimed", "^3 SV401 x"]


def test_many_violations_are_cut_short_and_say_so() -> None:
    problem = problem_of(2, 40)
    report = report_of(*(Violation("SV401", f"number {i}", 0, i) for i in range(80)))
    drawing = draw(generate("1f1b", problem), problem, report=report)
    assert "and 60 more violations" in drawing.text(80)
    assert "and 30 more violations" in drawing.svg()


def test_overlapped_pairs_in_letters() -> None:
    problem = problem_of(1, 2, backward=2)
    text = draw(Schedule.parse("0F0 (0F1;0B0)OVERLAP_F_B 0B1"), problem).text(80)
    assert "rank 0  F0 F1B0---- B1--- " in text
    assert "O overlapped F and B" in text


def test_colours_are_asked_for_and_say_the_same() -> None:
    drawing = one_f_one_b(4, 8)
    plain, painted = drawing.text(100), drawing.text(100, colour=True)
    assert "\x1b" not in plain
    assert "\x1b[" in painted
    bare = re.sub(r"\x1b\[[0-9;]*m", "", painted)
    assert re.findall(r"[FB]\d", bare) == re.findall(r"[FB]\d", plain)


def test_crowded_rows_are_painted_with_half_blocks() -> None:
    drawing = one_f_one_b(4, 60, forward=1001, backward=1999)
    bare = re.sub(r"\x1b\[[0-9;]*m", "", drawing.text(80, colour=True))
    assert "\N{LEFT HALF BLOCK}" in bare
    assert all(len(line) <= 80 for line in bare.splitlines())


def test_rich_prints_it_as_wide_as_the_console() -> None:
    file = io.StringIO()
    Console(file=file, width=60).print(one_f_one_b(4, 8))
    lines = file.getvalue().splitlines()
    assert max(map(len, lines)) <= 60
    assert "\x1b" not in file.getvalue()
    coloured = io.StringIO()
    Console(file=coloured, width=60, force_terminal=True, color_system="truecolor").print(one_f_one_b(4, 8))
    assert "\x1b[" in coloured.getvalue()


def test_two_pictures_share_one_scale() -> None:
    problem = problem_of(4, 8, backward_input=1, backward_weight=1)
    drawing = beside(*(draw(generate(name, problem), problem, title=name) for name in ("1f1b", "zb-h1")), title="both")
    lines = drawing.text(120).splitlines()
    axes = [line.partition("in flight")[0] for line in lines if line.startswith("ticks")]
    assert lines[0] == "both"
    assert len(axes) == 2
    assert axes[0] == axes[1]
    rows = [line for line in lines if line.startswith("rank 0")]
    assert len(rows[0].rstrip("0123456789 ")) > len(rows[1].rstrip("0123456789 "))
    assert sum(line.startswith("F forward") for line in lines) == 1
    makespans = [
        max(float(r.get("x", "")) + float(r.get("width", "")) for r in part) for part in _halves(drawing.svg())
    ]
    assert (makespans[1] - LEFT) / (makespans[0] - LEFT) == pytest.approx(27 / 33, abs=1e-3)


def _halves(svg: str) -> tuple[list[ET.Element], list[ET.Element]]:
    bars = steps_of(svg)
    return [bar for bar in bars if "B" in title_of(bar)], [bar for bar in bars if re.search("[IW]", title_of(bar))]


# SVG


@pytest.mark.parametrize("name", [known.name for known in families()])
def test_an_svg_has_a_bar_for_each_step_where_it_belongs(name: str) -> None:
    problem = family(name).problem(4, 8)
    timeline = simulate(generate(name, problem), problem)
    svg = draw(timeline).svg()
    bars = steps_of(svg)
    wanted = [
        (f"rank {rank}: {step}, {start} to {end}", start, end)
        for rank in range(4)
        for step, start, end in zip(
            timeline.schedule.steps(rank), timeline.starts[rank].tolist(), timeline.ends[rank].tolist(), strict=True
        )
    ]
    assert [title_of(bar) for bar in bars] == [title for title, _, _ in wanted]
    scale = max(float(bar.get("x", "")) + float(bar.get("width", "")) for bar in bars) - LEFT
    for bar, (_, start, end) in zip(bars, wanted, strict=True):
        assert float(bar.get("x", "")) == pytest.approx(LEFT + start * scale / timeline.makespan, abs=0.02)
        assert float(bar.get("width", "")) == pytest.approx((end - start) * scale / timeline.makespan, abs=0.02)


def test_an_svg_shows_numbers_axis_figures_and_legend() -> None:
    texts = texts_of(one_f_one_b(4, 8, tick="us").svg())
    for wanted in ("7", "rank 3", "us", "30", "idle", "in flight", "memory", "27.3%", "forward", "backward"):
        assert wanted in texts
    assert any(text.startswith("makespan 33 us, span 33 us, bubble 27.3%") for text in texts)


def test_kinds_and_chunks_have_colours_of_their_own() -> None:
    colours = [colour(kind, chunk, 3) for kind in (Kind.F, Kind.B, Kind.I, Kind.W) for chunk in range(3)]
    assert len(set(colours)) == 12
    problem = problem_of(2, 2, virtual=2)
    bars = steps_of(draw(generate("interleaved-1f1b", problem), problem).svg())
    shades = {title_of(bar)[8:10]: bar.get("fill") for bar in bars}
    assert len(set(shades.values())) == 4
    assert shades["0F"] == shades["1F"] != shades["2F"] == shades["3F"]


def test_an_overlapped_pair_is_two_halves() -> None:
    problem = problem_of(1, 2)
    bars = steps_of(draw(Schedule.parse("0F0 (0F1;0B0)OVERLAP_F_B 0B1"), problem).svg())
    assert [float(bar.get("height", "")) for bar in bars] == [28, 14, 14, 28]
    upper, lower = bars[1:3]
    assert (upper.get("x"), upper.get("width")) == (lower.get("x"), lower.get("width"))
    assert float(lower.get("y", "")) == float(upper.get("y", "")) + 14
    assert title_of(upper) == "rank 0: (0F1;0B0)OVERLAP_F_B, 1 to 4"


def test_violations_are_outlined_with_their_code() -> None:
    problem = problem_of(2, 3, in_flight=[2, 3])
    schedule = generate("gpipe", problem)
    svg = draw(schedule, problem, report=verify(schedule, problem)).svg()
    outlines = [rect for rect in ET.fromstring(svg).iter(f"{SVG}rect") if rect.get("class") == "sv-o"]
    assert [title_of(rect) for rect in outlines] == ["#1 SV401"]
    marked = next(bar for bar in steps_of(svg) if title_of(bar).startswith("rank 0: 0F2"))
    assert (outlines[0].get("x"), outlines[0].get("y")) == (marked.get("x"), marked.get("y"))
    assert "#1 SV401" in texts_of(svg)
    assert any(text.startswith("#1 SV401 rank 0 has 3 micro-batches in flight") for text in texts_of(svg))


def test_a_wait_cycle_is_marked_at_all_its_steps() -> None:
    schedule = Schedule.parse("0F0 0B0 0F1 0B1\n1F0 1F1 1B0 1B1")
    svg = draw(schedule, problem_of(), report=verify(schedule, problem_of())).svg()
    outlines = [rect for rect in ET.fromstring(svg).iter(f"{SVG}rect") if rect.get("class") == "sv-o"]
    assert len(outlines) == 2
    assert outlines[0].get("x") == outlines[1].get("x")


def test_a_caption_says_where_first_steps_that_wait_shorten_the_span() -> None:
    problem = problem_of(form="split", forward=[6, 1], backward_input=1, backward_weight=[5, 10], latency=3)
    order = Schedule.parse("0F0 0F1 0I0 0W0 0I1 0W1\n1F0 1I0 1F1 1I1 1W0 1W1")
    told = "span 27 ticks (as drawn up to 28 ticks: first steps do not wait), bubble"
    assert told in " ".join(str(draw(order, problem)).split())
    assert told in draw(order, problem).svg()
    assert "as drawn" not in str(one_f_one_b())


def test_the_critical_path_is_underlined() -> None:
    problem = problem_of()
    drawing = draw(generate("1f1b", problem), problem, critical=True)
    paths = [p.get("d", "") for p in ET.fromstring(drawing.svg()).iter(f"{SVG}path") if p.get("class") == "sv-k"]
    assert [path.count("M") for path in paths] == [2, 4]
    assert "black line: the critical path" in texts_of(drawing.svg())


def test_a_plan_and_a_timeline_bring_their_problem() -> None:
    problem = problem_of(name="mine")
    schedule = generate("1f1b", problem)
    plan = Plan(problem, Status.OPTIMAL, "makespan", schedule, value=9, bound=9)
    assert draw(plan).text(80).splitlines()[0] == "mine: 2 ranks, 2 micro-batches, optimal makespan"
    assert draw(simulate(schedule, problem)).svg() == draw(schedule, problem).svg()
    assert draw(plan, problem).panels[0].timed
    with pytest.raises(InputError, match="of another problem"):
        draw(plan, problem_of(2, 3))
    with pytest.raises(InputError, match=r"without a schedule \(infeasible\)"):
        draw(Plan(problem, Status.INFEASIBLE, "makespan", reason="too little memory"))


def test_without_a_problem_unit_costs_stand_in_and_a_remark_says_so() -> None:
    drawing = draw(generate("1f1b", problem_of()))
    assert drawing.panels[0].timed
    assert "remark: no problem is given" in drawing.text(200)


@pytest.mark.parametrize("text", ["-", "-\n-", "0F0", "0SEND_F0", "5F3\n-"])
def test_odd_schedules_are_drawn(text: str) -> None:
    drawing = draw(Schedule.parse(text))
    ET.fromstring(drawing.svg())
    assert drawing.text(60)
    assert drawing.text(60, colour=True)


def test_steps_that_take_no_time() -> None:
    problem = problem_of(2, 2, forward=0, backward=0)
    drawing = draw(generate("1f1b", problem), problem)
    assert len(steps_of(drawing.svg())) == 8
    assert "makespan 0 ticks" in drawing.text(80)


def test_the_largest_durations() -> None:
    problem = problem_of(2, 2, forward=1 << 57, backward=(1 << 58) + 1)
    drawing = draw(generate("1f1b", problem), problem)
    assert len(steps_of(drawing.svg())) == 8
    assert re.search(r"rank 0  F0-+ F1-+ \.+B0-+ \.+B1-+", drawing.text(80))


# Safety


@given(st.text(max_size=60))
def test_clean_text_has_nothing_that_a_terminal_or_xml_obeys(text: str) -> None:
    safe = clean(text)
    assert not any(unicodedata.category(letter).startswith("C") for letter in safe)
    assert clean(safe) == safe
    ET.fromstring(f'<svg aria-label="{safe.translate({38: None, 60: None, 34: None})}"/>')


def test_hostile_names_and_messages_are_harmless() -> None:
    problem = replace(problem_of(), name=HOSTILE, tick="<b>\x1b[2J")
    report = Report(report_of(Violation(HOSTILE[:20], HOSTILE, 0, 0, (HOSTILE,))).properties, None, (HOSTILE,))
    for drawing in (
        draw(generate("1f1b", problem), problem, report=report),
        draw(Schedule.parse("0F0\n-"), title=HOSTILE),
    ):
        text, svg, html = drawing.text(80), drawing.svg(), drawing.html()
        assert not any(unicodedata.category(letter).startswith("C") for letter in text if letter != "\n")
        assert drawing.text(80, colour=True).count("\x1b[2J") == 0
        ET.fromstring(svg)
        for document in (svg, html):
            assert "<script" not in document
            assert "<b>" not in document
            assert "\x1b" not in document
            assert "\u202e" not in document
            document.encode("utf-8")
    assert "&lt;script&gt;" in draw(generate("1f1b", problem), problem).svg()


def test_long_names_are_cut() -> None:
    assert clean("x" * 1000, 20) == "x" * 17 + "..."
    problem = problem_of(name="x" * 1000, tick="y" * 1000)
    assert len(draw(generate("1f1b", problem), problem).text(80)) < 3000


# Files


@pytest.mark.parametrize(
    ("suffix", "start"), [("svg", "<svg "), ("html", "<!DOCTYPE html>"), ("txt", "2 ranks"), ("SVG", "<svg ")]
)
def test_a_picture_is_saved_by_its_suffix(tmp_path: Path, suffix: str, start: str) -> None:
    path = tmp_path / f"plan.{suffix}"
    one_f_one_b().save(path)
    content = path.read_bytes()
    assert content.startswith(start.encode())
    assert b"\r" not in content
    one_f_one_b().save(str(path))
    assert path.read_bytes() == content


@pytest.mark.parametrize("name", ["plan.png", "plan.pdf", "plan", ".svg/plan", "nowhere/plan.svg"])
def test_what_cannot_be_saved_says_what_can(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError) as caught:
        one_f_one_b().save(tmp_path / name)
    message = str(caught.value)
    assert name.rpartition("/")[2] in message
    if name == "plan.png":
        assert ".svg, .html, .txt" in message
        assert "save .svg and convert it" in message


def test_a_page_needs_nothing_else() -> None:
    html = one_f_one_b(name="a page").html()
    assert "<title>a page: 2 ranks, 2 micro-batches</title>" in html
    assert "<svg " in html
    assert "rank 0  F0 F1 ......B0---" in html
    assert not re.search(r"<script|<link|<img|@import|url\(|src=|href=", html)
    assert re.findall(r"https?://[^\"' ]+", html) == ["http://www.w3.org/2000/svg"]


def test_the_same_picture_every_time() -> None:
    first, second = (one_f_one_b(4, 8, virtual=1) for _ in range(2))
    assert first.svg() == second.svg() == first._repr_svg_()
    assert first.html() == second.html()
    assert first.text(100, colour=True) == second.text(100, colour=True)
    assert str(first) == repr(first) == first.text()


def test_beside_wants_a_picture() -> None:
    with pytest.raises(InputError, match="at least one drawing"):
        beside()


# Size


def test_ten_thousand_steps_are_drawn_quickly_and_one_by_one() -> None:
    problem = problem_of(16, 312)
    timeline = simulate(generate("1f1b", problem), problem)
    drawing = draw(timeline)
    svg, text = drawing.svg(), drawing.text(100)
    assert calls_of(drawing.svg) < 80 * drawing.panels[0].steps
    assert calls_of(lambda: drawing.text(100)) < 100_000
    assert len(steps_of(svg)) == 9984
    assert len(svg) < 2_000_000
    assert "there are more steps than cells" in text


def test_a_hundred_thousand_steps_are_drawn_as_shares() -> None:
    problem = problem_of(32, 1600)
    timeline = simulate(generate("1f1b", problem), problem)
    drawing = draw(timeline, report=report_of(Violation("SV401", "here", 3, 7)))
    svg = drawing.svg()
    assert len(svg) < 2_000_000
    assert not steps_of(svg)
    assert any("102,400 steps are too many to draw one by one" in text for text in texts_of(svg))
    assert "#1 SV401" in texts_of(svg)
    areas = [p for p in ET.fromstring(svg).iter(f"{SVG}path") if title_of(p).startswith("rank 0: ")]
    assert [title_of(area) for area in areas] == ["rank 0: F", "rank 0: B"]
    for area, letter in zip(areas, "FB", strict=True):
        share = _surface(area.get("d", "")) / (PLOT * 28)
        work = {"F": 1600, "B": 3200}[letter]
        assert share == pytest.approx(work / timeline.makespan, abs=0.002)


def _surface(path: str) -> float:
    """Return the area inside a closed path of horizontal and vertical lines."""
    x, y, total = 0.0, 0.0, 0.0
    for command, rest in re.findall(r"([MHV])([^MHVz]*)", path):
        numbers = [float(part) for part in rest.split()]
        if command == "M":
            x, y = numbers
        elif command == "H":
            total += (numbers[0] - x) * y
            x = numbers[0]
        else:
            y = numbers[0]
    return abs(total)


def test_too_many_ranks_are_counted_instead() -> None:
    problem = problem_of(300, 1)
    drawing = draw(generate("naive", problem), problem)
    assert "and 44 more ranks" in drawing.text(80)
    assert "and 44 more ranks" in texts_of(drawing.svg())
    assert len(drawing.panels[0].rows) == 256


# Words and numbers


@pytest.mark.parametrize(
    ("horizon", "unit", "most", "marks", "shown"),
    [
        (33, "tick", 8, "0 5 10 15 20 25 30", "ticks"),
        (1, "tick", 8, "0 1", "ticks"),
        (1_456_749, "us", 8, "0 200 400 600 800 1000 1200 1400", "ms"),
        (9_000_000, "us", 9, "0 1 2 3 4 5 6 7 8 9", "s"),
        (9_000_000, "beat", 4, "0 5M", "beat"),
        (40_000, "tick", 4, "0 10k 20k 30k 40k", "ticks"),
        (7200, "s", 4, "0 2000 4000 6000", "s"),
    ],
)
def test_an_axis_has_round_marks_in_a_short_unit(horizon: int, unit: str, most: int, marks: str, shown: str) -> None:
    found = axis(horizon, unit, most)
    assert " ".join(label for _, label in found.marks) == marks
    assert found.unit == shown
    distances = {b[0] - a[0] for a, b in zip(found.marks, found.marks[1:], strict=False)}
    assert len(distances) == 1


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0"), (99_999, "99999"), (100_000, "100k"), (1_610_612_736, "1.611G"), (123_456, "123.5k")]
)
def test_numbers_are_short(count: int, text: str) -> None:
    assert number(count) == text


def test_shares_are_rounded_to_one_decimal() -> None:
    assert percent(Fraction(3, 11)) == "27.3%"
    assert percent(Fraction(0)) == "0.0%"
    assert percent(Fraction(1)) == "100.0%"


@pytest.mark.parametrize(
    ("keys", "heading", "column", "caption"),
    [
        ({"activation": "6 GiB"}, "GiB held", ["12.0", "6.0"], "12.0 GiB"),
        ({"activation": "1 GiB", "static": [0, 2**30 + 1]}, "B held", ["2.147G", "2.147G"], "2.0 GiB"),
        ({"activation": 6}, "memory", ["12", "6"], "12 units"),
    ],
)
def test_memory_is_told_in_the_unit_of_the_problem(
    keys: dict[str, object], heading: str, column: list[str], caption: str
) -> None:
    """In letters and in SVG: a column in that unit, and the most in the caption; sizes a byte apart are abbreviated."""
    problem = Problem.chain(ranks=2, microbatches=2, **keys)  # type: ignore[arg-type]
    picture = draw(generate("1f1b", problem), problem)
    text = picture.text(100).splitlines()
    assert text[1].endswith(f"in flight  {heading}")
    assert [line.split()[-1] for line in text[2:4]] == column
    assert f"peak memory {caption}" in " ".join(" ".join(text).split())
    assert {*column, heading} <= set(texts_of(picture.svg()))
