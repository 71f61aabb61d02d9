"""Model files of layers, their schema, and the profiles of PipeDream."""

from __future__ import annotations

import json

import pytest
from jsonschema import Draft202012Validator

from schedverify.core.errors import InputError
from schedverify.core.model import TiedWeight
from schedverify.formats.json_toml import parse_toml
from schedverify.formats.models.model_files import data_of, model_from
from schedverify.formats.models.pipedream import parse_profile
from schedverify.formats.schema import schemas
from support.model_texts import MODEL


class TestFiles:
    @pytest.mark.parametrize(
        ("change", "told"),
        [
            (('name = "small"', "version = 2"), "version: expected 1, found 2"),
            (("repeat = 6", "repeat = 0"), "layer[1].repeat: expected a whole number from 1"),
            (("forward = 10\n", "forward = 1.5\n"), "layer[0].forward: '1.5' is no multiple of the tick (us)"),
            (
                ("forward = 10\n", "forward = 1.5\nbackward = 2.25\n"),
                'layer[0].forward: 1.5 is no multiple of the tick (us) (tick = "0.01 us" would do, with every duration',
            ),
            (('tick = "us"', "tick = 3"), "tick: expected a line of text of at most 1000"),
            (('kind = "loss"', "kind = 0"), "layer[2].kind: expected one of embedding"),
            (("forward = 10\n", "forwar = 10\n"), "layer[0].forwar: unknown key (did you mean 'forward'?)"),
            (('"2 MiB"', '"2 MX"'), "layer[0].parameters: expected bytes"),
            (('name = "small"', 'name = "small"\nedges = [1]'), "edges[0]: expected a list, found 1"),
            (('kind = "loss"', 'kind = "los"'), "layer[2].kind: expected one of embedding"),
            (('"head"]]', '"tail"]]'), "tied[0][1]: no layer is called 'tail'"),
            (('["embedding", "head"]', "{ weights = 3 }"), "tied[0].layers: missing (the layers that have the weight)"),
            (
                ('["embedding", "head"]', '{ layers = ["head"] }'),
                "tied[0].layers: expected at least two layers, found 1",
            ),
            (('["embedding", "head"]', '{ layers = ["t0", "t0"] }'), "tied[0].layers: a layer stands twice"),
            (
                ('["embedding", "head"]', '{ layers = ["t0", "head"], weights = ["w"] }'),
                "tied[0].weights: expected a name for each of 2 layers, found 1",
            ),
            (('["embedding", "head"]', '{ layers = ["t0", "head"], bytes = 3 }'), "tied[0].bytes: unknown key"),
            (
                ('["embedding", "head"]', '{ layers = ["t0", "embedding"], state = "3 MiB" }'),
                "layer[0].state: its tied weights have 3145728, the layer has ",
            ),
            (('name = "t"', 'name = "head"\n[[layer]]\nname = "head"'), "layer 8 is called 'head', and so is layer 1"),
            (("repeat = 6", "repeat = 100000"), "layer[1].repeat: 100000 makes too many layers (a model has at most"),
            (("backward_weight = 180", ""), "layer[2].backward_weight: missing beside backward_input (give both"),
            (("forward = 10\n", "forward = 10\nweight_stash = 7\n"), "layer[0].weight_stash: 7 is more than the act"),
            (('[[layer]]\nname = "t"', '[devices]\nmemori = 3\n[[layer]]\nname = "t"'), "devices.memori: unknown key"),
            (
                ('[[layer]]\nname = "t"', '[devices]\nslowness = []\n[[layer]]\nname = "t"'),
                "devices.slowness: no value",
            ),
            (('[[layer]]\nname = "t"', '[devices]\nslowness = [0]\n[[layer]]\nname = "t"'), "devices.slowness"),
        ],
    )
    def test_what_is_wrong_is_told(self, change: tuple[str, str], told: str) -> None:
        with pytest.raises(InputError) as caught:
            model_from(parse_toml(MODEL.replace(*change)))
        assert told.replace("'1.5'", "1.5") in str(caught.value)

    def test_tied_weights_are_named_with_their_bytes_or_their_layers_alone(self) -> None:
        """Layers stand in their order, whatever the file's; the old form is a group without weights."""
        named = '{ layers = ["head", "embedding"], weights = ["head.w", "w"], parameters = "1 KiB" }'
        data = parse_toml(MODEL.replace('tied = [["embedding", "head"]]', f'tied = [["embedding", "t1"], {named}]'))
        Draft202012Validator(json.loads(schemas()["model.json"])).validate(data)
        data["layer"][2]["parameters"] = 1024
        model = model_from(data)
        assert model.tied == ((0, 2), (0, 7))
        assert model.tied_weights == (TiedWeight((0, 7), ("w", "head.w"), 1024),)
        assert model_from(data_of(model)) == model

    def test_the_schema_takes_the_model(self) -> None:
        schema = json.loads(schemas()["model.json"])
        Draft202012Validator.check_schema(schema)
        Draft202012Validator(schema).validate(parse_toml(MODEL))

    def test_graphs_are_read_by_name(self) -> None:
        text = 'edges = [["a", "c"], ["b", "c"]]\n' + "".join(f'[[layer]]\nname = "{n}"\nforward = 1\n' for n in "abc")
        assert model_from(parse_toml(text)).all_edges == ((0, 2), (1, 2))
        with pytest.raises(InputError, match="layer 2 cannot feed layer 0"):
            model_from(parse_toml(text.replace('["a", "c"]', '["c", "a"]')))

    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ("node1 -- x\n", "line 1"),
            ("\tnode1 -- node2\n", "there is no node1"),
            ("nonsense\n", "is no node and no edge"),
        ],
    )
    def test_a_profile_that_is_none_is_told(self, text: str, told: str) -> None:
        with pytest.raises(InputError, match=told):
            parse_profile(text)


def test_an_entry_is_a_part_of_the_activation() -> None:
    with pytest.raises(InputError, match=r"layer\[0\]\.entry: 5 is more than the activation"):
        model_from({"layer": [{"activation": 4, "entry": 5}]})


def test_a_profile_is_a_model_in_microseconds_without_its_inputs() -> None:
    """Times are milliseconds there; the activation is what leaves a layer and what a micro-batch holds of it."""
    figures = "forward_compute_time={}, backward_compute_time={}, activation_size={}, parameter_size={}"
    lines = ["node1 -- Input0 -- " + figures.format("0.0", "0.0", "0.0", "0.0"),
             "node2 -- Linear(4, 2) -- " + figures.format("1.5", "2.0", "[8.0; 4.0]", "40.0"),
             "node3 -- ReLU -- " + figures.format("0.25", "0.5", "8.0", "0.0"),
             "\tnode1 -- node2", "\tnode2 -- node3"]  # fmt: skip
    model = parse_profile("\n".join(lines), "small")
    assert (model.name, model.tick, model.all_edges) == ("small", "us", ((0, 1),))
    first, second = model.layers
    assert (first.forward, first.backward, first.output, first.activation, first.parameters) == (1500, 2000, 12, 12, 40)
    assert (second.forward, second.backward) == (250, 500)
    with pytest.raises(InputError, match="line 1: there is no node7"):
        parse_profile("\tnode7 -- node7")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_faults_of_a_profile_stand_at_its_lines(end: str) -> None:
    figures = ", ".join(f"{each}=1.0" for each in ("forward_compute_time", "backward_compute_time"))
    first = f"node1 -- a \f\v\u2028\x85 -- {figures}, activation_size=1.0, parameter_size=1.0"
    with pytest.raises(InputError) as caught:
        parse_profile(f"{first}{end}{end}nonsense{end}")
    assert [fault.key for fault in caught.value.faults] == ["line 3"]
