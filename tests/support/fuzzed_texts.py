"""The forms of files that the commands read: right ones, the words that they are made of, and their mutations."""

from __future__ import annotations

import json
import random
import re
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from schedverify.core.result import Plan
from schedverify.formats import problem_files
from schedverify.formats.json_toml import parse_toml
from schedverify.formats.plan_files import to_json
from schedverify.formats.trace_files import save_run
from support.model_texts import DECODER, MODEL
from support.run_traces import a_plan, as_predicted

PROBLEM = """\
name = "small"
ranks = 2
microbatches = 3
tick = "us"
form = "split"
edges = [[0, 1]]

[costs]
forward = [4, 5]
backward_input = 4
backward_weight = 3

[links]
latency = 1
bandwidth = 25
bytes = 10

[memory]
activation = "2 MiB"
weight_stash = "1 MiB"
static = [0, 1]
capacity = "1 GiB"

[limits]
in_flight = 3
makespan = 400

[[boundary]]
from = 0
to = 1
shape = [4, 8]
dtype = "bfloat16"
"""
WIDE = """\
ranks = 2
virtual = 2
microbatches = 4
replicas = 1
placement = "v"
form = "fused"
tied = [[0, 3]]
costs = { forward = 1, backward = 2, overlapped = [{ forward = 0, backward = 3, cost = 2 }] }
links = { latency = [[0, 1], [1, 0]], buffer = 2 }
limits = { outstanding_sends = 2, unsharded = 1, in_flight_stage = 4 }
objective = { minimize = "span" }
"""
CHAIN = """\
ranks = 3
microbatches = 4
costs = { forward = 2, backward = 3 }
memory = { activation = 1, capacity = 3 }
"""
CLUSTER = """\
name = "cluster"
nodes = 2
devices = 4
batch = 32
[device]
like = "h100-80gb"
[choices]
tensor_parallel = [1, 2]
pipeline_parallel = [2]
microbatch_size = 1
"""
CASE = """\
about = "a case"
discipline = "pair"
select = ["SV1", "SV2", "SV3"]
schedule = \"\"\"
0F0 0F1 0B0 0B1
1F0 1B0 1F1 1B1
\"\"\"
[problem]
ranks = 2
microbatches = 2
costs = { forward = 1, backward = 2 }
"""
CSV = "0F0,0F1,0B0,0B1\n1F0,1B0,1F1,1B1\n"
ORDER = "0F0 0F1 0F2 0I0 0W0 0I1 0W1 0I2 0W2\n1F0 1I0 1W0 1F1 1I1 1W1 1F2 1I2 1W2\n"
LOWERED = (
    "0UNSHARD 0F0 0SEND_F0 0F1 0SEND_F1 0RECV_B0 0B0 0RECV_B1 0B1 0RESHARD 0REDUCE_GRAD\n"
    "[1RECV_F0;1RECV_F1] 1F0 1B0 1SEND_B0 1F1 1B1 1SEND_B1 1WAIT_SEND_B0 1WAIT_SEND_B1\n"
)
NUMBERS = (
    "0", "-1", "1", "2", "7", "255", "65535", "65536", "1000000", "4294967296", "4611686018427387904",
    "9223372036854775807", "18446744073709551616", "1e400", "0.1", "1.5", "-0.0", "nan", "inf", "1_000", "0x10", "00",
    "9" * 300, "٣", "1e-9",
)  # fmt: skip
"""Numbers that something could choke on."""
TEXTS = (
    "", "x", "a\\u0000b", "\x1b[31m", "\u202egpj", "\u2028", "\ufeff", "é", "1 GiB", "-1 GiB", "99999999 EiB", "18 ms",
    "::error::x", "<script>", "../../x", "/dev/null", "\ud800", "🙂", "a" * 5000, "%s{0}", "'", '"', "\\",
)  # fmt: skip
"""Texts that something could obey or stumble over."""
WORDS = (
    "0F0", "1B1", "0I0", "1W2", "0F0;1B0", "(0F1;0B0)OVERLAP_F_B", "[0SEND_F0;0RECV_B0]", "[", "]", "0SEND_F0",
    "1RECV_F0", "1SEND_B1@0", "0UNSHARD", "0RESHARD", "0REDUCE_GRAD", "0WAIT_SEND_F0", "0WAIT_REDUCE_GRAD", "(", ")",
    "((", "0F65535", "65535F0", "0F9999999", "0f0", "F0", "0", "#", ",", ";", "|", "->", "-", "[0F0]", "0F", "0B-1",
    "0F00", "0 F 0", "0F0F0", "1SEND_F0@99999", "-" * 5000,
)  # fmt: skip
"""Words of schedules, right and wrong."""
KEYS = (
    "version", "name", "ranks", "microbatches", "virtual", "placement", "form", "tick", "edges", "tied", "replicas",
    "replica_of", "slices", "costs", "links", "memory", "limits", "objective", "boundary", "forward", "backward",
    "overlapped", "latency", "bytes", "bandwidth", "buffer", "activation", "weight_stash", "recompute", "static",
    "backward_input", "capacity", "in_flight", "makespan", "layer", "repeat", "kind", "parameters", "output",
    "decoder", "layers", "training", "sequence", "device", "devices", "partition", "nodes", "batch", "choices",
    "schedule", "rows", "digest", "lowered", "timeline", "measures", "verdicts", "value", "bound", "certificate",
    "then", "status", "steps", "traceEvents", "args", "ts", "dur", "select", "discipline", "file", "problem",
    "about", "a.b.c", "", "x" * 300, "like",
)  # fmt: skip


_OTHERS = ("true", "1979-05-27T07:32:00Z", "[]", "{}", "[[[]]]", "''", "null", "07:32:00")
_BYTES = (
    b"", b"\x00", b"\xff", b"\xef\xbb\xbf", b"\x1b", b"\xe2\x80\xa8", b"\r", b"\xc3", b"\n", b'"', b"[",
    b"\xed\xa0\x80",
)  # fmt: skip
_KINDS = ("F", "B", "I", "W", "SEND_F", "RECV_F", "SEND_B", "RECV_B", "WAIT_SEND_F", "X")
_NUMBER = re.compile(r"[0-9]+")
_VALUE = re.compile(r"""(?<![\w."])-?[0-9]+(?:\.[0-9]+)?(?![\w."])|"[^"\n]*"|\[[^\]\n]*\]""")


class Form(NamedTuple):
    """A form of file: right ones with their suffix, and the commands that read it, where BAD stands for the file."""

    name: str
    weight: int
    seeds: tuple[tuple[str, str], ...]
    commands: tuple[str, ...]


@cache
def files() -> dict[str, str]:
    """Return right files, which stand beside the bad one: by their names."""
    plan = a_plan()
    return {
        "problem.toml": PROBLEM,
        "wide.toml": WIDE,
        "order.txt": ORDER,
        "csv.csv": CSV,
        "lowered.txt": LOWERED,
        "plan.json": to_json(plan),
        "trace.json": _trace(plan),
        "model.toml": MODEL,
        "decoder.toml": DECODER,
    }


def _trace(plan: Plan) -> str:
    with TemporaryDirectory() as folder:
        save_run(as_predicted(plan), path := Path(folder, "trace.json"))
        return path.read_text(encoding="utf-8")


_ORDERS = (
    "verify BAD", "verify BAD --problem problem.toml", "verify BAD --format json", "verify BAD --format github",
    "verify BAD --problem wide.toml --format json --discipline rank", "simulate BAD --problem problem.toml",
    "simulate BAD --format json", "draw BAD", "draw BAD -o out.svg", "draw BAD --problem problem.toml -o out.html",
    "convert BAD out.csv", "convert BAD out.txt", "convert BAD out.json --problem problem.toml",
    "convert BAD - --to trace", "lower BAD --problem problem.toml", "lint BAD", "lower BAD --discipline block",
    "verify BAD --profile torch",
)  # fmt: skip
_PROBLEMS = (
    "verify order.txt --problem BAD", "verify order.txt --problem BAD --format json",
    "simulate order.txt --problem BAD", "generate 1f1b --problem BAD", "generate zb-h1 --problem BAD -o out.csv",
    "generate interleaved-1f1b --problem BAD", "lower order.txt --problem BAD",
    "draw order.txt --problem BAD -o out.svg", "verify lowered.txt --problem BAD",
    "convert order.txt out.json --problem BAD", "generate zb-v --problem BAD",
    "generate gpipe --problem BAD -o out.json",
)  # fmt: skip
_PLANS = (
    "verify BAD", "verify BAD --format json", "simulate BAD", "draw BAD", "draw BAD -o out.html",
    "conform BAD trace.json", "convert BAD out.txt", "convert BAD out.csv", "verify order.txt --problem BAD",
    "lint BAD", "verify BAD --problem problem.toml",
)  # fmt: skip
_TRACES = (
    "conform plan.json BAD", "conform plan.json BAD --format json", "conform plan.json BAD -o out.toml",
    "conform plan.json BAD --draw out.svg",
)  # fmt: skip
_MODELS = (
    "partition BAD --ranks 2 --time-limit 1", "partition BAD --ranks 2 --format json --time-limit 1",
    "partition BAD --ranks 3 --virtual 2 --time-limit 1",
    "partition BAD --ranks 2 --to megatron-layout --time-limit 1",
    "partition BAD --ranks 2 -o out.toml --time-limit 1 --microbatches 3",
)  # fmt: skip


@cache
def forms() -> dict[str, Form]:
    """Return the forms by their names."""
    given = files()
    orders = tuple((".txt", given[name]) for name in ("order.txt", "lowered.txt"))
    in_json = problem_files.to_json(problem_files.problem_from(parse_toml(PROBLEM)))
    all_forms = (
        Form("schedule", 50, orders, _ORDERS),
        Form("csv", 20, ((".csv", CSV), (".csv", LOWERED.replace(" ", ","))), _ORDERS),
        Form("problem", 60, ((".toml", PROBLEM), (".toml", WIDE), (".json", in_json)), _PROBLEMS),
        Form(
            "problem to search",
            1,
            ((".toml", PROBLEM), (".toml", WIDE)),
            ("optimize BAD --time-limit 0.1 --workers 1",),
        ),
        Form("plan", 30, ((".json", given["plan.json"]),), _PLANS),
        Form("trace", 20, ((".json", given["trace.json"]),), _TRACES),
        Form("model", 40, ((".toml", MODEL), (".toml", DECODER)), _MODELS),
        Form("cluster", 20, ((".toml", CLUSTER),), ("partition decoder.toml --cluster BAD",)),
        Form("case", 20, ((".schedule.toml", CASE),), ("lint BAD", "lint BAD --format github")),
    )
    return {form.name: form for form in all_forms}


def made_up(rng: random.Random, form: Form, text: str) -> str:
    """Return a text of the form's grammar that has nothing to do with a right one."""
    if form.name in ("schedule", "csv"):
        between = "," if form.name == "csv" else " "
        return "\n".join(
            between.join(_word(rng) for _ in range(rng.choice((0, 1, 3, 9)))) for _ in range(rng.randint(1, 4))
        )
    if text.lstrip().startswith("{"):
        return json.dumps(_tree(rng, 0))
    lines = [
        f"{_key(rng)} = {_toml(rng, 0)}" if rng.random() < 0.7 else f"[{_key(rng)}]" for _ in range(rng.randint(1, 9))
    ]
    return "\n".join(lines)


def with_other_numbers(rng: random.Random, _form: Form, text: str) -> str:
    """Return the text with a number or two exchanged for others that are as likely as not right, too."""
    places = [match.span() for match in _NUMBER.finditer(text)]
    for start, end in sorted(rng.sample(places, min(len(places), rng.choice((1, 1, 2)))), reverse=True):
        text = text[:start] + str(rng.choice((*range(9), 12, 100, 5000, 10**6, 1 << 40, 1 << 60))) + text[end:]
    return text


def with_other_values(rng: random.Random, _form: Form, text: str) -> str:
    """Return the text with some numbers and quoted texts exchanged for others."""
    places = [match.span() for match in _VALUE.finditer(text)]
    for start, end in sorted(rng.sample(places, min(len(places), rng.randint(1, 3))), reverse=True):
        text = text[:start] + _value(rng) + text[end:]
    return text


def with_other_words(rng: random.Random, form: Form, text: str) -> str:
    """Return the text with some of its words gone, doubled, exchanged, or put among them."""
    words = re.split(r"([\s,]+)", text)
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(words))
        new = (
            _word(rng) if form.name in ("schedule", "csv") else rng.choice((_key(rng), _value(rng), rng.choice(words)))
        )
        words[place : place + rng.randint(0, 2)] = rng.choice(([], [new], [new, " "], [words[place]] * 2))
        words = words or [""]
    return "".join(words)


def with_other_lines(rng: random.Random, _form: Form, text: str) -> str:
    """Return the text with lines gone, exchanged, or many times over, or with something nested in it."""
    lines = text.splitlines() or [""]
    place, times = rng.randrange(len(lines)), rng.choice((0, 2, 50, 1000))
    nested = rng.choice(("[", "{", "(", "a.", "[[", '{"a":'))
    new = rng.choice((
        [lines[place]] * times, [rng.choice(lines)], [nested * times], [f"{nested * times}x = 1"],
        [f"a = {nested * times}"],
        [lines[place].replace(" ", rng.choice(("\t", "\u2028", "\r", "\x0c", ""))) * max(1, times // 20)],
    ))  # fmt: skip
    lines[place : place + rng.randint(0, 1)] = new
    return rng.choice(("\n", "\r\n", "\n\n")).join(lines)


def with_other_bytes(rng: random.Random, raw: bytes) -> bytes:
    """Return the bytes with some of them changed, gone or put in between."""
    changed = bytearray(raw)
    for _ in range(rng.randint(1, 5)):
        place = rng.randrange(len(changed) + 1)
        changed[place : place + rng.randint(0, 3)] = rng.choice(_BYTES) or rng.randbytes(rng.randint(1, 4))
    return bytes(changed[: rng.randrange(len(changed) + 1)] if rng.random() < 0.2 else changed)


def _word(rng: random.Random) -> str:
    if rng.random() < 0.3:
        return rng.choice(WORDS)
    stage, microbatch = (rng.choice(("0", "1", "2", rng.choice(NUMBERS))) for _ in range(2))
    word = f"{stage}{rng.choice(_KINDS)}{microbatch}"
    return f"({word} {_word(rng)})" if rng.random() < 0.1 else word


def _key(rng: random.Random) -> str:
    key = rng.choice(KEYS)
    return key if re.fullmatch(r"[a-z_.]+", key) and rng.random() < 0.9 else json.dumps(key + rng.choice(("", *TEXTS)))


def _value(rng: random.Random) -> str:
    return rng.choice(
        (rng.choice(NUMBERS), json.dumps(rng.choice(TEXTS)), _toml(rng, 0), json.dumps(_tree(rng, 2)), "true")
    )


def _toml(rng: random.Random, depth: int) -> str:
    sort = rng.randrange(5 if depth < 3 else 3)
    if sort < 3:
        return (rng.choice(NUMBERS), json.dumps(rng.choice(TEXTS), ensure_ascii=False), rng.choice(_OTHERS))[sort]
    parts = [_toml(rng, depth + 1) for _ in range(rng.choice((0, 1, 2, 40)))]
    return f"[{', '.join(parts)}]" if sort == 3 else f"{{ {', '.join(f'{_key(rng)} = {part}' for part in parts)} }}"


def _tree(rng: random.Random, depth: int) -> Any:
    sort = rng.randrange(5) if depth else 4
    if sort < 3 or depth > 3:
        return rng.choice((None, True, 0, -1, 1 << 64, 0.5, 10**40, *TEXTS))
    size = range(rng.choice((0, 1, 2, 5)))
    return (
        [_tree(rng, depth + 1) for _ in size] if sort == 3 else {rng.choice(KEYS): _tree(rng, depth + 1) for _ in size}
    )
