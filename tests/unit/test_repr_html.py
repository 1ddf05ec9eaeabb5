"""What notebooks show: the numbers are the library's, nothing acts, nothing is loaded, and it stays small."""

from __future__ import annotations

import base64
import re
import struct
import zlib
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
import torch
from numpy import ndarray

import regard
from regard import (
    Causal,
    Entropy,
    LogSumExp,
    MeanDistance,
    Pooled,
    Received,
    Recording,
    Rows,
    Sigmoid,
    SpanMass,
    TopK,
    Weights,
    observe,
    record,
)
from regard.analysis.worked_example import Lesson
from regard.display import repr_html
from regard.display.images import Scale, viridis
from regard.errors import OptionError
from regard.learn import show
from regard.nn import MultiHeadAttention, Transformer
from regard.recording.head import strongest
from regard.spec.observers import Observer, Top

BAD = "<script>alert('&\x1b')</script>\n"
N = 150


class Page(HTMLParser):
    """The elements of some HTML, and its text; every element must be closed where it was opened."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags = list[tuple[str, dict[str, str | None]]]()
        self.text, self.open = "", list[str]()
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag != "img":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def harmless(html: str) -> Page:
    """The page, which runs nothing, loads nothing, and leaves the notebook its colours."""
    page = Page(html)
    for tag, attributes in page.tags:
        assert tag not in ("script", "style", "link", "iframe", "object", "form")
        assert not any(name.startswith("on") for name in attributes)
        assert "background" not in (attributes.get("style") or "")
        for name in ("src", "href"):
            assert (attributes.get(name) or "data:image/png;").startswith("data:image/png;")
    assert not re.search(r"https?:|url\(", html)
    assert "color-scheme:light dark" in html
    return page


def levels(uri: str | None) -> ndarray:
    """A picture's levels, decoded."""
    assert uri is not None
    data = base64.b64decode(uri.split(",")[1])
    wide, high = struct.unpack(">II", data[16:24])
    at, body = 8, b""
    while at < len(data):
        (size,) = struct.unpack(">I", data[at : at + 4])
        if data[at + 4 : at + 8] == b"IDAT":
            body += data[at + 8 : at + 8 + size]
        at += size + 12
    return np.frombuffer(zlib.decompress(body), np.uint8).reshape(high, wide + 1)[:, 1:]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    """Three layers, of which the last has another normalizer; every token tries to act."""
    torch.manual_seed(0)
    layers = [MultiHeadAttention(32, 4, key_value_heads=2, mask=Causal()) for _ in range(2)]
    layers.append(MultiHeadAttention(32, 2, mask=Causal(), normalizer=Sigmoid()))
    path = tmp_path_factory.mktemp("run") / "<b>run.safetensors"
    return record(Transformer(50, layers), torch.randint(50, (2, N)), to=path, tokens=[f"{i}{BAD}" for i in range(N)])


def test_seen_shows_each_result_in_small():
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 5, 200, 16).unbind()
    asked: tuple[Any, ...] = (Pooled(100, 100, "max"), TopK(3), Entropy(), SpanMass((0, 1), (5, 9)))
    seen = observe(q, k, v, *asked, mask=Causal())
    page = harmless(seen._repr_html_())
    pooled, top, entropy, spans = (seen[one] for one in asked)
    pictures = page.of("img")
    assert len(pictures) == 4  # of ten heads
    assert "and 6 more heads" in page.text
    most = torch.nn.functional.max_pool2d(pooled, 2)
    for i, one in enumerate(pictures):
        want = Scale(1.0).of(most[0, i].double().numpy())
        assert (levels(one["src"]) == want).all()
    assert "the greatest of 2 × 2 cells" in page.text
    last = zip(top.keys[0, 0, 199].tolist(), top.weights[0, 0, 199].tolist(), strict=True)
    assert ", ".join(f"{key} ({weight:.3g})" for key, weight in last) in page.text
    figures = entropy[1, 0].numpy()
    row = "".join(f"{x:.3g}" for x in (figures.mean(), figures.min(), np.median(figures)))
    assert f"row 1, head 0{row}" in page.text
    assert f"row 1, head 0{spans[1, 0, :, 0].mean():.3g}{spans[1, 0, :, 1].mean():.3g}" in page.text
    assert len(page.of("polyline")) == 6


@pytest.mark.parametrize("n", [1, 3, 4000])
def test_what_is_seen_stays_small_whatever_was_asked(n: int):
    q, k, v = torch.randn(3, 3, 8, n, 8).unbind()
    many = [SpanMass(*[(0, i % n) for i in range(j + 300)]) for j in range(30)]
    asked: list[Observer[Any]] = [Pooled(512, 512, how) for how in ("max", "mean", "sum")]
    asked += [TopK(8), Entropy(), Received(), LogSumExp(), MeanDistance(), Rows(*range(min(n, 50)))]
    html = observe(q, k, v, *asked, *(many if n < 100 else []), mask=Causal())._repr_html_()
    harmless(html)
    assert len(html) < 60_000
    assert "Entropy()" in html


def test_rows_that_see_nothing_and_no_queries_at_all_are_shown():
    q, k, v = torch.randn(3, 1, 2, 6, 8).unbind()
    hidden = observe(q, k, v, LogSumExp(), TopK(2), Entropy(), mask=torch.zeros(6, 6, dtype=torch.bool))
    assert "none finite" in harmless(hidden._repr_html_()).text
    empty = observe(q[:, :, :0], k, v, TopK(2), Entropy(), Pooled(4, 4))
    assert "nothing" in harmless(empty._repr_html_()).text


def test_learning_is_not_disturbed():
    q = torch.randn(1, 1, 9, 8, requires_grad=True)
    seen = observe(q, q, q, Entropy(), mask=Causal())
    harmless(seen._repr_html_())
    seen[Entropy()].sum().backward()
    assert q.grad is not None


def test_a_head_shows_its_map_its_figures_and_its_links(run: Recording):
    layer = run.layer(1)
    head = layer.head(3, batch=1)
    page = harmless(head._repr_html_())
    weights = layer.weights[1, 3]
    (picture,) = page.of("img")
    pooled = layer.see(one := Pooled(128, 128, "max"))[one][1, 3]
    assert (levels(picture["src"]) == Scale(1.0).of(pooled.double().numpy())).all()
    assert "1 px = 2×2 weights, maximum" in page.text
    entropy = layer.see(Entropy())[Entropy()][1, 3]
    assert f"entropy, nats{entropy.mean():.3g}{entropy.min():.3g}" in page.text
    apart = weights.clone().fill_diagonal_(0)
    query, key = divmod(int(apart.argmax()), N)
    assert f"{apart.max():.3g}{query:,}“{query}" in page.text
    assert f"{key:,}“{key}<script>" in page.text
    assert "␛" in page.text


def test_a_head_is_what_its_layer_is(run: Recording):
    asked: tuple[Any, ...] = (Entropy(), TopK(3), MeanDistance(), Received(), Pooled(9, 9, "mean"), Rows(5, 2))
    for layer in run:
        one, all_ = layer.head(1, batch=1).see(*asked), layer.see(*asked)
        for observer in asked:
            mine, whole = one[observer], all_[observer]
            for a, b in zip(*((x if isinstance(x, tuple) else (x,)) for x in (mine, whole)), strict=True):
                torch.testing.assert_close(a, b[1, 1])
    head = run.layer(0).head(2)
    assert head.weights.shape == (N, N)
    torch.testing.assert_close(head.weights[5:9, 3], run.layer(0).weights[0, 2, 5:9, 3])
    with pytest.raises(OptionError, match="0 to 3"):
        run.layer(0).head(4)
    with pytest.raises(OptionError, match="no observers"):
        head.see()
    with pytest.raises(OptionError, match="2 at most"):
        _ = head.weights[0, 0, 0]
    # Another normalizer has no lse to make weights of, but can be asked and shown.
    sigmoid = run.layer(2).head(0)
    with pytest.raises(OptionError, match="Softmax"):
        _ = sigmoid.weights
    harmless(sigmoid._repr_html_())


def test_what_is_asked_of_a_recording_is_shown_too(run: Recording):
    asked: tuple[Any, ...] = (Entropy(), TopK(3), Pooled(9, 9, "max"), SpanMass((0, 1)), Received())
    layer = run.layer(0)
    for of, place, name in ((layer, (0, 0), "head 0"), (layer.head(1), (), "this head")):
        seen = of.see(*asked)
        page = harmless(seen._repr_html_())
        entropy, top, pooled = (seen[one] for one in asked[:3])
        assert f"{name}{entropy[place].numpy().mean():.3g}" in page.text
        key, weight = top.keys[place][N - 1, 0], top.weights[place][N - 1, 0]
        assert f"query {N - 1}{key:,} ({weight:.3g})" in page.text
        want = Scale(1.0).of(pooled[place].double().numpy())
        assert (levels(page.of("img")[0]["src"]) == want).all()


def test_a_head_of_a_call_that_the_kernels_do_not_take():
    q, k = torch.randn(2, 2, 3, 20, 8, dtype=torch.float64).unbind()
    weights = Weights.of(q, k, mask=Causal())
    head = weights.head(-1, batch=1)
    torch.testing.assert_close(head.see(Entropy()), weights.see(Entropy())[1, 2])
    torch.testing.assert_close(head[4], weights[1, 2, 4])
    with pytest.raises(OptionError, match="heads"):
        weights.head(3)


def test_what_would_take_long_says_so(run: Recording, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("regard.recording.head.CHEAP", 100)
    page = harmless(run.layer(0).head(0)._repr_html_())
    assert "takes a while" in page.text
    assert not page.of("img")
    page = harmless(run._repr_html_())
    assert "run.layer(0).head(0)" in page.text
    assert not page.of("img")


def test_a_recording_shows_its_layers_and_small_maps(run: Recording):
    page = harmless(run._repr_html_())
    assert "<b>run.safetensors" in page.text
    pictures = page.of("img")
    assert len(pictures) == 10
    drawn = Pooled(32, 32, "max")
    want = Scale(1.0, 31).of(run.layer(1).see(drawn)[drawn][0, 2].double().numpy())
    assert (levels(pictures[6]["src"]) == want).all()
    assert len(run._repr_html_()) < 60_000


def test_strongest_links_leave_out_the_own_place_and_prefer_the_first():
    weights = torch.tensor([[0.9, 0.1, 0.0], [0.5, 0.0, 0.5], [0.5, 0.2, 0.3]])
    found = torch.sort(weights, dim=-1, descending=True, stable=True)
    top = Top(found.indices, found.values)
    half, tenth = 0.5, pytest.approx(0.2)
    assert strongest(top, 0, 4) == [(1, 0, half), (1, 2, half), (2, 0, half), (2, 1, tenth)]
    assert strongest(top, 1, 1) == [(0, 0, pytest.approx(0.9))]


def test_the_lesson_is_shown_with_how_each_number_was_made():
    html = show("the <river> & bank")._repr_html_()
    page = harmless(html)
    assert len(page.of("details")) > 20
    assert "x₁(<river>) = " in page.text
    told = show()
    text = Page(told._repr_html_()).text
    lesson = Lesson.of()
    for head in lesson.heads:
        for rows in (head.q, head.k, head.v, head.scores, head.scaled, head.exps, head.weights, head.out):
            for number in (number for row in rows for number in row):
                assert f"{number.name} = " in text
    assert "scaled(bank → river) = 3 ÷ 1.4142 ≈ 2.1213" in text
    assert "score(bank → river) = 1×1 + 1×2 = 1 + 2 = 3" in text
    assert len(html) < 120_000
    with pytest.raises(OptionError):
        show("one")


def test_pictures_have_as_many_colours_as_levels():
    assert viridis(31).shape == (31, 3)
    picture = repr_html.picture(np.array([[0.0, 1.0]]), BAD, 1.0, colours=31)
    (tag,) = Page(picture).of("img")
    assert levels(tag["src"]).tolist() == [[0, 31]]
    assert tag["alt"] == "<script>alert('&␛')</script>␊"


def test_importing_regard_imports_no_notebook():
    import subprocess
    import sys

    named = ("anywidget", "matplotlib", "IPython")
    code = f"import regard, sys; print([m for m in {named} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
    assert regard.__version__
