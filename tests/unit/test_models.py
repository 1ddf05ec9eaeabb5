"""The embedded model: a fair split, tokens that lose nothing, a recipe that resumes, true figures."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from experiments import corpus, evaluate, train
from regard import models
from regard.errors import OptionError
from regard.models.model import LAYERS, build
from regard.models.tokenizer import START, BytePairTokenizer

SHIPPED = Path(models.__file__).parent


@pytest.fixture(scope="module")
def tokens() -> BytePairTokenizer:
    return BytePairTokenizer.open(SHIPPED / models.TOKENIZER)


def library(folder: Path, *names: str) -> corpus.Corpus:
    """A corpus of files of these names."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"name = {name!r}\n")
    return corpus.corpus(folder)


def test_the_split_is_by_top_level_module_and_takes_its_tests_along(tmp_path: Path) -> None:
    assert corpus.held_out("json")
    assert corpus.held_out("logging")
    assert not corpus.held_out("shelve")
    code = library(
        tmp_path,
        "json/decoder.py",
        "logging/__init__.py",
        "shelve.py",
        "_shelve.py",
        "test/test_json/test_dump.py",
        "test/test_logging.py",
        "test/json_tests.py",
        "test/test_shelve.py",
        "test/test_cmd_line.py",
        "encodings/cp437.py",
        "site-packages/json.py",
        "shelve/tests/a.py",
        "shelve/idle_test/test_shelf.py",
    )
    assert [source.name for source in code.held_out] == ["json/decoder.py", "logging/__init__.py"]
    assert {(source.name, source.is_test) for source in code.train} == {
        ("_shelve.py", False),
        ("shelve.py", False),
        ("test/test_shelve.py", True),
        ("shelve/idle_test/test_shelf.py", True),
    }


def test_about_one_module_in_twenty_is_held_out() -> None:
    share = sum(corpus.held_out(f"module{i}") for i in range(4000)) / 4000
    assert share == pytest.approx(1 / corpus.HELD_OUT_ONE_IN, abs=0.01)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "def f(x):\r\n\treturn x  \n",
        " " * 77 + "x",
        "α = 'naïve' # 中文 🦊\n",
        "\x00\x7f\ufeff",
        f"{START} is text",
        "x" * 5000,
        "\u2028\u0301e\u0301",
        "if a:\n    if b:\n        c\n\n\nd",
    ],
)
def test_no_byte_is_lost(tokens: BytePairTokenizer, text: str) -> None:
    result = tokens.encode(text)
    assert tokens.decode(result.ids) == text
    assert sum(tokens.byte_lengths[token] for token in result.ids) == len(text.encode())
    assert [text[start:stop] for start, stop in result.spans] == result.texts
    assert tokens.start not in result.ids


def test_a_line_break_and_its_indentation_are_one_token(tokens: BytePairTokenizer) -> None:
    assert tokens.encode("if a:\n        return").texts == ["if", " a", ":", "\n        ", "return"]


def test_a_lone_surrogate_is_refused(tokens: BytePairTokenizer) -> None:
    with pytest.raises(OptionError, match="errors='replace'"):
        tokens.encode("a\ud800b")


def nonzero_model(vocabulary: int = 300) -> train.Transformer:
    """A fresh model in which nothing is zero."""
    torch.manual_seed(0)
    model = build(vocabulary)
    for parameter in model.parameters():
        if parameter.ndim == 2 and not parameter.any():
            nn.init.normal_(parameter, std=0.05)
    return model


def test_the_model_sees_no_future() -> None:
    model = nonzero_model()
    tokens = torch.randint(300, (1, 300))
    other = tokens.clone()
    other[0, 200:] = torch.randint(300, (100,))
    with torch.no_grad():
        before, after = model.hidden(tokens), model.hidden(other)
    torch.testing.assert_close(before[:, :200], after[:, :200])
    assert not torch.allclose(before[:, 200:], after[:, 200:])


def test_orthogonal_brings_singular_values_near_one() -> None:
    for shape in ((96, 24), (24, 96), (32, 32)):
        values = torch.linalg.svdvals(train.orthogonal(torch.randn(shape)))
        assert values.max() < 1.3
        assert values.median() > 0.6


def test_batches_cover_a_stream_without_replacement_and_depend_on_the_seed_alone() -> None:
    streams = torch.arange(512 * 40), torch.arange(512 * 80)
    batches = train.Batches(*streams, seed=5)
    drawn = [batches.draw(step) for step in range(10)]
    again = train.Batches(*streams, seed=5)
    assert drawn == [again.draw(step) for step in range(10)]
    assert drawn != [train.Batches(*streams, seed=6).draw(0)] * 10
    starts = [pick for _, picks in drawn for pick in picks if pick[0] == 0][:38]
    assert len(set(starts)) == len(starts)
    length, picks = drawn[0]
    window = batches.tokens(length, picks)
    assert window.shape == (8, 513)
    assert window[:, 0].tolist() == [start for _, start in picks]
    assert [batches.draw(step)[0] for step in (10, 900, 2000)] == [512, 1024, 2048]


def test_the_rate_rises_stays_and_falls_to_zero() -> None:
    rates = [train.rate_at(step, 1000) for step in range(1001)]
    assert rates[0] == pytest.approx(1 / train.WARM_UP)
    assert rates[100] == rates[400] == 1
    assert rates[900] == pytest.approx(0.1 / train.FALL)
    assert rates[1000] == 0


def test_a_run_that_is_cut_off_goes_on_as_if_it_were_not(tmp_path: Path) -> None:
    batch = torch.randint(300, (2, 129), generator=torch.Generator().manual_seed(1))
    whole = train.Training(300, steps=50, seed=2)
    losses = [whole.update(batch) for _ in range(4)]
    assert losses[0] == pytest.approx(math.log(300), abs=0.2)
    assert losses[3] < losses[0]
    first = train.Training(300, steps=50, seed=2)
    for _ in range(2):
        first.update(batch)
    first.save(tmp_path / "checkpoint.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]
    second = train.Training(300, steps=50, seed=2)
    second.load(tmp_path / "checkpoint.pt")
    assert second.step == 2
    assert [second.update(batch) for _ in range(2)] == pytest.approx(losses[2:], rel=1e-5)


def test_a_model_comes_back_from_its_files(tmp_path: Path, tokens: BytePairTokenizer) -> None:
    model = build(tokens.size)
    train.export(model, {"seed": "7"}, tmp_path / models.WEIGHTS)
    with pytest.raises(OptionError, match=r"experiments\.train"):
        models.load(tmp_path)
    tokens.backend_tokenizer.save(str(tmp_path / models.TOKENIZER))
    back = models.load(tmp_path)
    assert back.facts == {"seed": "7"}
    assert not back.model.training
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(back.model.state_dict()[name], tensor.half().float())


def test_the_shipped_weights_are_small() -> None:
    assert (SHIPPED / models.WEIGHTS).stat().st_size <= 8_000_000
    assert len(models.load().model.blocks) == len(LAYERS)


def test_figures_are_what_they_say(monkeypatch: pytest.MonkeyPatch, tokens: BytePairTokenizer) -> None:
    monkeypatch.setattr(evaluate, "HALF", 128)
    monkeypatch.setattr(evaluate, "SHORT", 64)
    monkeypatch.setattr(evaluate, "SKIPPED", 32)
    model = nonzero_model(tokens.size).eval()
    text = "def function(argument):\n    return argument + 1\n" * 40
    sources = (corpus.SourceFile("a.py", text, False), corpus.SourceFile("b.py", "x = 1\n", False))
    result = evaluate.figures(models.Embedded(model, tokens, {}), sources)
    stream = torch.tensor([i for source in sources for i in tokens.file_ids(source.text)])

    def cost(start: int, scored: int, stop: int) -> float:
        """Bits of the tokens after `scored` … `stop`, where the model reads from `start` on."""
        with torch.no_grad():
            logits = model(stream[None, start:stop])[0, scored - start :]
        targets = stream[scored + 1 : stop + 1]
        return float(nn.functional.cross_entropy(logits, targets, reduction="sum")) / math.log(2)

    last = len(stream) - 1
    far = sum(cost(i - 128, i, min(i + 128, last)) for i in range(128, last, 128))
    near = sum(cost(i - 32, i, min(i + 32, last)) for i in range(128, last, 32))
    late = len(tokens.decode(stream[129:].tolist()).replace(START, ""))
    assert result.far_bits == pytest.approx(far / late, rel=2e-5)
    assert result.near_bits == pytest.approx(near / late, rel=2e-5)
    assert result.near_bits != pytest.approx(result.far_bits, rel=1e-4)
    whole = sum(len(source.text) for source in sources)
    assert result.bits == pytest.approx((cost(0, 0, 128) + far) / whole, rel=2e-5)
    assert result.xz_bits < 1
