"""What a recorded layer read: the states and maps of the run, from which its q, k, v and output follow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from cases import Case
from regard import ALiBi, Causal, Recording, record
from regard.nn import MultiHeadAttention, Transformer
from regard.positions import Rotary, Sinusoidal
from regard.recording import Inputs, Progress, RecordedLayer
from regard.recording.container import TensorFileReader
from tiny import FAMILIES, inputs
from unit.test_recording import TOKENS, Calls, Steps, ours
from unit.test_recording_files import header_of, with_header

pytestmark = pytest.mark.usefixtures("as_users_run_it")

BETWEEN: dict[str, dict[str, tuple[str, ...]]] = {
    **{
        name: {"query": ("position",), "key": ("position",)}
        for name in ("llama", "mistral", "gemma2", "gpt_oss", "qwen2", "gpt_neox")
    },
    "qwen3": {"query": ("norm", "position"), "key": ("norm", "position")},
    "whisper": {"query": ("another step",)},
}
"""What each family does after its projections, where it does something."""


def heads(x: Tensor, of: int) -> Tensor:
    return x.unflatten(-1, (of, -1)).transpose(1, 2)


def made(layer: RecordedLayer, part: str) -> Tensor:
    """A projection of what was read, by head."""
    assert layer.inputs is not None
    one = getattr(layer.inputs, part)
    return heads(linear(one.x, one.weight, one.bias), layer.heads if part == "query" else layer.k.shape[1])


def output(layer: RecordedLayer) -> Tensor:
    assert layer.inputs is not None
    by = layer.inputs.output
    return linear(layer.out().transpose(1, 2).flatten(2), by.weight, by.bias)


OUTPUTS = "o_proj", "out_proj", "c_proj", "output.dense", "SelfAttention.o", "EncDecAttention.o"


@pytest.mark.parametrize("name", FAMILIES)
def test_what_models_of_transformers_read(name: str, tmp_path: Path) -> None:
    family = FAMILIES[name]
    model, back = family.model(), list[Tensor]()
    for place, module in model.named_modules():
        attends = place.endswith(OUTPUTS) and ("att" in place.lower())
        if attends or (name == "gpt_neox" and place.endswith("attention.dense")):
            module.register_forward_hook(lambda module, given, out: back.append(out))
    run = record(model, inputs(family.reads), to=tmp_path / "run", values=True, layer_inputs=True)
    assert len(back) == len(run)
    for layer, out in zip(run, back, strict=True):
        for part in ("query", "key", "value"):
            assert layer.inputs is not None
            between = getattr(layer.inputs, part).between
            assert between == BETWEEN.get(name, {}).get(part, ())
            wanted = {"query": layer.q, "key": layer.k, "value": layer.v}[part]
            near = torch.isclose(made(layer, part), wanted, atol=1e-5, rtol=1e-4)
            assert bool(near.all()) == (not between)
        torch.testing.assert_close(output(layer), out, atol=1e-5, rtol=1e-4)


def test_ours_with_grouped_heads_and_a_context(tmp_path: Path) -> None:
    torch.manual_seed(0)

    class Crossing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = MultiHeadAttention(
                16, 4, key_value_heads=2, value_size=3, context_width=6, projection_bias=("query", "output")
            )
            self.second = MultiHeadAttention(16, 2, position=Rotary(), qk_norm=nn.RMSNorm)
            self.third = MultiHeadAttention(16, 2, position=Sinusoidal(16))

        def forward(self, x: Tensor, context: Tensor) -> Tensor:
            nn.init.normal_(self.first.output.bias)
            back.append(self.first(x, context))
            back.append(self.second(back[-1]))
            back.append(self.third(back[-1]))
            return back[-1]

    back = list[Tensor]()
    x, context = torch.randn(2, 7, 16), torch.randn(2, 5, 6)
    run = record(Crossing(), (x, context), to=tmp_path / "run", values=True, layer_inputs=True)
    first, second, third = (layer.inputs for layer in run)
    assert first is not None
    assert torch.equal(first.query.x, x)
    assert torch.equal(first.key.x, context)
    assert torch.equal(first.value.x, context)
    assert first.query.bias is not None
    assert first.key.bias is None
    assert second is not None
    assert (second.query.between, second.value.between) == (("norm", "position"), ())
    assert torch.equal(second.query.x, back[0])
    assert third is not None
    assert third.query.between == ()
    assert not torch.equal(third.query.x, back[1]), "with what its position adds"
    for layer, out in zip(run, back, strict=True):
        torch.testing.assert_close(output(layer), out, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(made(layer, "value"), layer.v)
    torch.testing.assert_close(made(run.layer(2), "query"), run.layer(2).q)


def test_what_is_not_known_is_not_kept(tmp_path: Path) -> None:
    class Apart(nn.Module):
        """A layer that attends beside projections which it does not use."""

        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v, self.o = (nn.Linear(8, 8) for _ in range(4))
            self.call = Calls(Case(mask="causal").build())

        def forward(self, x: Tensor) -> None:
            for projection in (self.q, self.k, self.v):
                projection(x)
            self.call()

    torchs = nn.TransformerEncoderLayer(16, 2, batch_first=True)
    for model, given in (
        (Calls(Case(mask="causal").build()), ()),
        (torchs, (torch.randn(1, 5, 16),)),
        (Apart(), (torch.randn(1, 5, 8),)),
    ):
        run = record(model, given, to=tmp_path / "run", layer_inputs=True)
        assert [layer.inputs for layer in run] == [None]
    assert record(ours(), TOKENS, to=tmp_path / "run").layer(0).inputs is None


def test_each_layer_has_its_own_and_only_wanted_ones_are_kept(tmp_path: Path) -> None:
    model = ours(3)
    read = list[Tensor]()
    for layer in model.attentions:
        layer.query.register_forward_pre_hook(lambda module, given: read.append(given[0]))
    (layer,) = record(model, TOKENS, to=tmp_path / "run", layers=[2], layer_inputs=True)
    assert layer.inputs is not None
    assert torch.equal(layer.inputs.query.x, read[2])
    assert not torch.equal(read[1], read[2])
    assert not model.blocks[0].get_submodule("attention.key")._forward_pre_hooks, "all is as it was"


def test_what_layers_share_is_written_once(tmp_path: Path) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = MultiHeadAttention(16, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(self.layer(x))

    record(Twice(), (torch.randn(1, 9, 16),), to=tmp_path / "run", layer_inputs=True)
    shapes = [tuple(e.shape) for name, e in TensorFileReader(tmp_path / "run").entries.items() if "held" in name]
    assert sorted(shapes) == [(1, 9, 16)] * 2 + [(16, 16)] * 4


@pytest.mark.parametrize("dtype", [None, torch.float16])
def test_the_size_that_is_said_has_them(dtype: torch.dtype | None, tmp_path: Path) -> None:
    told: list[Progress] = []
    run = record(ours(3), TOKENS, to=tmp_path / "run", progress=told.append, layer_inputs=True, dtype=dtype)
    assert 0.8 < told[0].whole / run.size < 1.1
    read = run.layer(0).inputs
    assert read is not None
    assert {read.query.x.dtype, read.output.weight.dtype} == {dtype or torch.float32}


def test_a_score_with_numbers_of_its_own_has_none(tmp_path: Path) -> None:
    layer = MultiHeadAttention(16, 2, mask=Causal(), bias=Steps())
    run = record(Transformer(50, [layer]), TOKENS, to=tmp_path / "run", layer_inputs=True)
    assert run.layer(0).inputs is not None, "a bias changes nothing of q"


def spoilt(path: Path, change: Any) -> RecordedLayer:
    """A recording with one layer, whose header says something else of what was read."""
    torch.manual_seed(0)
    layer = MultiHeadAttention(16, 2, mask=Causal(), bias=ALiBi(heads=2), projection_bias=True)
    record(Transformer(50, [layer]), TOKENS, to=path, layer_inputs=True)
    header = header_of(data := path.read_bytes())
    about = json.loads(header["__metadata__"]["about"])
    change(about["layers"][0])
    header["__metadata__"]["about"] = json.dumps(about)
    path.write_bytes(with_header(data, header))
    return Recording.open(path).layer(0)


def test_a_file_from_before_opens_as_it_did(tmp_path: Path) -> None:
    layer = spoilt(tmp_path / "run", lambda about: about.pop("inputs"))
    assert layer.inputs is None
    assert float(layer.weights[0, 1, 39].sum()) == pytest.approx(1, abs=1e-4)
    assert isinstance(spoilt(tmp_path / "run", lambda about: None).inputs, Inputs)


def put(part: str, name: str, value: Any) -> Any:
    def change(about: Any) -> None:
        about["inputs"][part][name] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        put("query", "x", None),
        put("query", "x", "held/99"),
        put("query", "x", "layers/0/q"),
        put("key", "x", "held/2"),
        put("query", "weight", "held/1"),
        put("key", "weight", None),
        put("key", "bias", "held/1"),
        put("value", "between", ["a spell"]),
        put("value", "between", 3),
        put("output", "weight", "held/0"),
        put("output", "bias", 5),
        lambda about: about["inputs"].pop("output"),
        lambda about: about.update(inputs=[1]),
        lambda about: about.update(inputs="x"),
    ],
)
def test_what_does_not_fit_is_damage(change: Any, tmp_path: Path) -> None:
    from regard.errors import OptionError

    layer = spoilt(tmp_path / "run", change)
    with pytest.raises(OptionError, match="a recording that is damaged"):
        _ = layer.inputs
