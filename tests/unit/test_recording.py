"""Recordings: what is asked of one is what `watch` would have seen in the run."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

import regard
from cases import CASES, Call, Case, observers
from regard import (
    ALiBi,
    Bias,
    Causal,
    Entropy,
    LogSumExp,
    Observer,
    Pooled,
    Received,
    Recording,
    RegardError,
    Relative,
    Softmax,
    SpanMass,
    TopK,
    Weights,
    attention,
    record,
    watch,
)
from regard.cli import main
from regard.nn import MultiHeadAttention, Transformer
from regard.recording import Progress
from regard.shapes import Box
from tiny import FAMILIES, inputs
from unit.test_memory import Greatest

pytestmark = pytest.mark.usefixtures("as_users_run_it")


class Attending(nn.Module):
    """A layer that makes one call."""

    def __init__(self, call: Call) -> None:
        super().__init__()
        self.call = call

    def forward(self) -> Tensor:
        return attention(self.call.q, self.call.k, self.call.v, **self.call.parts)


class Calls(nn.Module):
    """A model whose layers make these calls, one after another."""

    def __init__(self, *calls: Call) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Attending(call) for call in calls)

    def forward(self) -> None:
        for layer in self.layers:
            layer()


def recordable(case: Case) -> bool:
    return 0 not in case.sizes and not case.score.startswith("custom")


KEPT = [case for case in CASES if recordable(case) and case.dtype != torch.float64]
SHAPES = sorted({case.shape for case in KEPT})


def same(found: Any, wanted: Any, close: bool) -> None:
    if isinstance(wanted, tuple):
        for mine, theirs in zip(found, wanted, strict=True):
            same(mine, theirs, close)
    elif close:
        torch.testing.assert_close(found, wanted, atol=2e-6, rtol=1e-5, equal_nan=True)
    else:
        torch.testing.assert_close(found, wanted, atol=0, rtol=0, equal_nan=True)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_observer_of_every_case_gives_the_runs_own_values(shape: str, tmp_path: Path) -> None:
    chosen = [case for case in KEPT if case.shape == shape]
    model = Calls(*(case.build() for case in chosen))
    asked = observers(chosen[0].sizes)
    with torch.no_grad(), watch(model, *asked) as seen:
        model()
    run = record(model, (), to=tmp_path / "run.safetensors")
    assert run.exact
    for number, (case, layer, live) in enumerate(zip(chosen, run, seen, strict=True)):
        found, one = layer.see(*asked), asked[number % len(asked)]
        try:
            for observer in asked:
                # Rectangles are made from the log-sum-exp again; all else by the very same pass.
                same(found[observer], live[observer], isinstance(observer, Pooled))
            if not isinstance(one, TopK):
                same(layer.see(one)[one], live[one], True)
        except AssertionError as error:
            raise AssertionError(f"{case}: {error}") from None


def test_values_stay_symbols_and_functions_become_tables(tmp_path: Path) -> None:
    names = "causal", "where", "tensor of keys", "causal left padding", "placed"
    model = Calls(*(Case(mask=name, bias="alibi", normalizer="sink").build() for name in names))
    run = record(model, (), to=tmp_path / "run.safetensors")
    causal, where, tensor, padded, placed = run
    assert causal.mask == Causal()
    assert [type(layer.mask).__name__ for layer in (where, tensor, padded, placed)] == [
        "Tabled",
        "Given",
        "And",
        "PositionMask",
    ]
    assert isinstance(causal.bias, ALiBi)
    assert isinstance(causal.normalizer, Softmax)
    assert causal.normalizer.sink is not None
    assert causal.score == regard.Dot()


def test_a_table_of_all_pairs_becomes_bits(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    table = torch.rand((1, 1, 200, 200), generator=generator) < 0.5
    q, k, v = torch.randn((3, 1, 2, 200, 8), generator=generator)
    call = replace(Case().build(), q=q, k=k, v=v, mask=table)
    (layer,) = record(Calls(call), (), to=tmp_path / "run.safetensors")
    assert type(layer.mask).__name__ == "Tabled"
    assert sum(t.nbytes for t in layer.mask.tensors()) < table.nbytes / 4
    wanted = Weights.of(q, k, mask=table)[:]
    same(layer.weights[:], wanted, True)


def test_any_part_of_the_weights_can_be_had(tmp_path: Path) -> None:
    case = Case(mask="sinks", bias="t5", score="soft-capped", normalizer="sink", shape="grouped")
    call = case.build()
    run = record(Calls(call), (), to=tmp_path / "run.safetensors")
    parts = {name: part for name, part in call.parts.items() if name != "dropout"}
    live, found = Weights.of(call.q, call.k, **parts), run.layer(0).weights
    assert found.shape == live.shape == (2, 6, 21, 29)
    for index in ((1, 5, 20, 28), (0, 3, 7), (0,), (slice(None), 2, slice(3, 9), slice(5, 6))):
        same(found[index], live[index], True)
    same(run.layer(0).lse, run.layer(0).see(LogSumExp())[LogSumExp()], False)


SPANS = SpanMass((0, 4), (4, 9), (9, 17))
ASKED: tuple[Observer[Any], ...] = Entropy(), Received(), TopK(3), SPANS, Pooled(5, 5)


@pytest.mark.parametrize("name", FAMILIES)
def test_models_of_transformers_with_padding(name: str, tmp_path: Path) -> None:
    family = FAMILIES[name]
    model, given = family.model(), inputs(family.reads)
    with torch.no_grad(), watch(model, *ASKED) as seen:
        model(**given)
    run = record(model, given, to=tmp_path / "run.safetensors")
    assert run.names == seen.names
    assert model.config._attn_implementation == "eager", "and it is as it was"
    for layer, live in zip(run, seen, strict=True):
        found = layer.see(*ASKED)
        for observer in ASKED:
            same(found[observer], live[observer], isinstance(observer, Pooled))
        same(layer.see(Pooled(5, 5))[Pooled(5, 5)], live[Pooled(5, 5)], True)


def ours(layers: int = 2) -> Transformer:
    torch.manual_seed(3)
    made = [MultiHeadAttention(32, 4, mask=Causal(), bias=Relative.learned(4, 5)) for _ in range(layers)]
    model = Transformer(50, made).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


TOKENS = torch.arange(40)[None] % 50


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounded_recordings_say_how_far_off_they_are(dtype: torch.dtype, tmp_path: Path) -> None:
    model = ours()
    exact = record(model, TOKENS, to=tmp_path / "exact.safetensors")
    rounded = record(model, TOKENS, to=tmp_path / "rounded.safetensors", dtype=dtype)
    assert exact.exact
    assert not rounded.exact
    assert rounded.size < exact.size
    for mine, theirs in zip(rounded, exact, strict=True):
        told, queries = mine.rounding, range(1, 40)
        assert told is not None
        assert 0 < told.rms < told.greatest < (0.2 if dtype == torch.bfloat16 else 0.02)
        chosen = [(i + 1) * 40 // told.rows - 1 for i in range(told.rows)]
        apart = (mine.weights[:] - theirs.weights[:])[:, :, chosen].double().abs()
        assert abs(float(apart.amax()) - told.greatest) < 1e-5
        assert abs(float(apart.square().mean().sqrt()) - told.rms) < 1e-6
        sums = mine.weights[:].sum(-1)[..., queries]
        torch.testing.assert_close(sums, torch.ones_like(sums), atol=1e-4, rtol=0)
        assert f"weights within {told.greatest:.1e} of the run's" in str(rounded)
    assert str(exact).count("float32: exact") == 2


def test_a_model_in_half_precision_is_kept_as_it_is(tmp_path: Path) -> None:
    model = ours().bfloat16()
    with torch.no_grad(), watch(model, *ASKED) as seen:
        model(TOKENS)
    run = record(model, TOKENS, to=tmp_path / "run.safetensors")
    assert run.exact
    assert run.layer(0).dtype == "bfloat16"
    same(run.layer(1).see(Entropy())[Entropy()], seen.layer(1)[Entropy()], False)


def test_double_precision_is_rounded_and_says_so(tmp_path: Path) -> None:
    call = Case(mask="causal", dtype=torch.float64).build()
    run = record(Calls(call), (), to=tmp_path / "run.safetensors")
    told = run.layer(0).rounding
    assert told is not None
    assert told.greatest < 1e-6
    assert run.layer(0).dtype == "float32"


def test_what_a_recording_says_of_itself(tmp_path: Path) -> None:
    from regard import models

    path, text = tmp_path / "run.safetensors", "def größe(x):\n    return '🙂'"
    made = record(models.load(), text, to=path, layers=["blocks.1*", 4])
    run = Recording.open(str(path))
    assert (run.key, run.size) == (made.key, path.stat().st_size)
    assert (run.text, run.model) == (text, "python")
    assert run.tokens is not None
    assert run.spans is not None
    assert len(run.tokens) == len(run.spans) == run.layer(0).queries
    assert run.tokens[0] == "<|file|>"
    pairs = zip(run.tokens[1:], run.spans[1:], strict=True)
    assert all(text[start:stop] == token for token, (start, stop) in pairs)
    assert run.names == ("blocks.1.attention", "blocks.4.attention")
    assert [layer.number for layer in run] == [0, 1]
    assert run.layer(-1) is run.layer("blocks.4.attention")
    assert run.versions["torch"] == torch.__version__
    assert len(run) == 2
    assert repr(run) == f"Recording({str(path)!r}, 'python', 2 layers)"
    assert repr(run.layer(1)).startswith("RecordedLayer(1, 'blocks.4.attention', 1 × 6 heads of 32")
    assert str(run).startswith(f"run.safetensors: python, 2 layers, {len(run.tokens)} tokens, ")
    with pytest.raises(RegardError, match=r"recording\.layer: got 2; allowed: 0 to 1, or one of bl"):
        run.layer(2)
    with pytest.raises(RegardError, match="no observers"):
        run.layer(0).see()
    with pytest.raises(RegardError, match="Ask for it in watch"):
        run.layer(0).see(Entropy())[Received()]


def test_a_tokenizer_of_transformers_reads_a_text(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    backend = Tokenizer(models.WordLevel({"[CLS]": 0, "the": 1, "cat": 2, "[UNK]": 3}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()  # pyright: ignore[reportAttributeAccessIssue]
    backend.post_processor = processors.TemplateProcessing(  # pyright: ignore[reportAttributeAccessIssue]
        single="[CLS] $A", special_tokens=[("[CLS]", 0)]
    )
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend)
    run = record(FAMILIES["bert"].model(), "the  cat", tokenizer=tokenizer, to=tmp_path / "a")
    assert (run.tokens, run.spans) == (("[CLS]", "the", "cat"), ((0, 0), (0, 3), (5, 8)))
    assert run.model == "BertModel"


def test_values_on_request(tmp_path: Path) -> None:
    call = Case(mask="causal", shape="grouped").build()
    run = record(Calls(call), (), to=tmp_path / "with", values=True)
    same(run.layer(0).out(), call.attention(), False)
    without = record(Calls(call), (), to=tmp_path / "without").layer(0)
    assert without.v is None
    with pytest.raises(RegardError, match=r"without values; .*regard record --values"):
        without.out()


class Steps(Bias):
    """A bias of somebody else's."""

    def block(self, box: Box) -> Tensor:
        q, k = (torch.arange(r.start, r.stop) for r in (box.q, box.k))
        return ((q[:, None] // 4 - k // 4).abs() * -0.5)[None, None]


def test_what_others_wrote_is_lowered_or_refused(tmp_path: Path) -> None:
    call = replace(Case(mask="causal").build(), bias=Steps())
    run = record(Calls(call), (), to=tmp_path / "run")
    live = Weights.of(call.q, call.k, mask=Causal(), bias=Steps())[:]
    same(run.layer(0).weights[:], live, True)
    before = (tmp_path / "run").read_bytes()
    with pytest.raises(RegardError, match=r"layers\.0, whose score is Custom.*holds no functions"):
        record(Calls(Case(score="custom").build()), (), to=tmp_path / "run")
    assert (tmp_path / "run").read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == ["run"]


def test_a_module_that_is_called_twice_is_two_layers(tmp_path: Path) -> None:
    model = Calls(Case(mask="causal").build())
    model.layers.append(model.layers[0])
    run = record(model, (), to=tmp_path / "run")
    assert run.names == ("layers.0", "layers.0:2")


@dataclass
class Making(nn.Module):
    """A layer that makes its own queries, keys and values, and knows whether those before are gone."""

    alive: list[weakref.ref[Tensor]]

    def __post_init__(self) -> None:
        super().__init__()

    def __hash__(self) -> int:
        return id(self)

    def forward(self, n: int) -> int:
        made = [torch.randn(1, 2, n, 8) for _ in range(3)]
        held = sum(one() is not None for one in self.alive)
        self.alive += [weakref.ref(one) for one in made]
        attention(*made, mask=Causal() & regard.Window(100))
        return held


class Deep(nn.Module):
    def __init__(self, layers: int) -> None:
        super().__init__()
        alive: list[weakref.ref[Tensor]] = []
        self.layers = nn.ModuleList(Making(alive) for _ in range(layers))
        self.held: list[int] = []

    def forward(self, n: int) -> None:
        for layer in self.layers:
            self.held.append(layer(n))


@pytest.mark.parametrize("dtype", [None, torch.float16])
def test_memory_is_linear_and_of_one_layer(dtype: torch.dtype | None, tmp_path: Path) -> None:
    model, n = Deep(3), 16_384
    with Greatest() as seen:
        run = record(model, (n,), to=tmp_path / "run", dtype=dtype)
    assert seen.bytes <= 24 << 20, "all weights of a head would take 1 GiB"
    assert model.held == [0, 0, 0], "what was written is let go"
    assert float(run.layer(2).weights[0, 1, n - 1].sum()) == pytest.approx(1, abs=1e-3)


def test_the_size_is_said_before_anything_is_written(tmp_path: Path) -> None:
    told: list[Progress] = []
    path = tmp_path / "run"
    run = record(ours(3), TOKENS, to=path, progress=told.append)
    assert [(one.layer, one.done, one.layers) for one in told] == [(f"blocks.{i}.attention", i, 3) for i in range(3)]
    assert 0.8 < told[0].whole / run.size < 1.05
    assert told[0].free > run.size
    some = list[Progress]()
    record(ours(3), TOKENS, to=path, layers=[2], progress=some.append)
    assert [(one.done, one.layers) for one in some] == [(0, 1)]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"dtype": torch.int8}, r"dtype=…\): got torch\.int8; allowed: torch\.float32, torch\.bfloat16"),
        ({"spans": [(0, 1)]}, "spans without a text"),
        ({"inputs": "text"}, r"got a text; .* tokenizer=…"),
        ({"to": "/nowhere/run"}, "a folder that is there"),
        ({"model": Entropy()}, r"got a Entropy; allowed: a module"),
        ({"model": nn.Linear(40, 1), "inputs": torch.zeros(1, 40)}, "none of whose selected layers"),
        ({"layers": "other*"}, "none of whose selected layers"),
        ({"inputs": TOKENS[:, :0]}, "sizes of at least 1"),
    ],
)
def test_the_silly_mistakes(how: dict[str, Any], message: str, tmp_path: Path) -> None:
    given = {"model": ours(), "inputs": TOKENS, "to": tmp_path / "run"} | how
    with pytest.raises(RegardError, match=message):
        record(given.pop("model"), given.pop("inputs"), **given)
    assert list(tmp_path.iterdir()) == [], "nothing is left"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_command(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = ["record", "x = [1, 2, 3]", "-o", "run.safetensors", "--dtype", "float16", "--layers", "0", "*.4.*"]
    assert main([*told, "--values", "--inputs", "--first", "5"]) == 0
    said = capsys.readouterr().out
    assert "will write about" in said
    assert "are free" in said
    assert "float16: weights within" in said
    run = Recording.open("run.safetensors")
    assert run.names == ("blocks.0.attention", "blocks.4.attention")
    assert run.layer(0).v is not None
    assert run.layer(0).inputs is not None
    assert run.text == "".join((run.tokens or ())[1:])
    assert "x = [1, 2, 3]".startswith(run.text or "?")
    assert run.layer(0).queries == 5
    assert main(["record", "x", "-o", "nowhere/run"]) == 2
    assert "regard record: record(to=…)" in capsys.readouterr().err
