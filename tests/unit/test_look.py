"""`regard look`: its figures against plain softmax, its page parsed, its pictures decoded."""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy import ndarray
from rich.console import Console

from largest import Largest
from regard import Causal, Weights, Window
from regard.analysis import head_maps
from regard.analysis.head_maps import HeadMap
from regard.analysis.head_ranking import link_kinds
from regard.analysis.head_statistics import TOP
from regard.analysis.report_highlights import highlighted_heads, highlighted_links
from regard.analysis.run_report import CELLS, HeadReport, RunReport
from regard.analysis.uniform_baseline import uniform_baseline
from regard.cli import look_tables
from regard.cli.look_snippets import snippet
from regard.display import images
from regard.display.images import Scale, viridis
from regard.display.text import printable
from regard.errors import OptionError
from regard.integrations.opening import RegardTextModel, open_model
from regard.models.tokenizer import BytePairTokenizer, train_tokenizer
from regard.nn import Block, MultiHeadAttention, Transformer
from regard.positions import Rotary
from regard.shapes import Sizes
from regard.spec.masks import dense
from regard.system import atomic_files
from regard.system.text_source import TextSource, read_source
from reports import report_of, scored

TEXT = '''"""Ends scripts: </script><b>&amp;\x1b[2J"""

def first(items, *, key=None):
    for item in items:
        if key is None or key(item):
            return item\r
\treturn "naïve 漢字 🙂"


class Last:
    def __call__(self, items):
        return first(reversed(items))
'''
WINDOW = 8


@pytest.fixture(scope="module")
def opened() -> RegardTextModel:
    torch.manual_seed(0)
    layers = [
        MultiHeadAttention(16, 2, mask=Causal() & Window(WINDOW - 1), position=Rotary()),
        MultiHeadAttention(16, 4, key_value_heads=2, mask=Causal(), position=Rotary()),
    ]
    tokenizer = BytePairTokenizer(train_tokenizer([TEXT]))
    return RegardTextModel("tiny <model>", Transformer(tokenizer.size, layers).eval(), tokenizer)


@pytest.fixture(scope="module")
def seen(opened: RegardTextModel) -> RunReport:
    return report_of(opened, TextSource("some <file>.py", TEXT, len(TEXT.encode())))


@torch.no_grad()
def weights_of(opened: RegardTextModel, found: RunReport) -> list[ndarray]:
    """Every head's weights, by the formula."""
    x = opened.model.embedding_norm(opened.model.embedding(torch.tensor([found.tokens.ids])))
    n, result = len(found.tokens), list[ndarray]()
    for block in opened.model.blocks:
        assert isinstance(block, Block)
        layer = block.attention
        q, k, _ = layer.projected(block.attention_norm(x))
        k = k.repeat_interleave(layer.heads // layer.key_value_heads, 1)
        assert layer.mask is not None
        allowed = dense(layer.mask(), Sizes(1, layer.heads, layer.heads, n, n, 1, 1, q.device))
        scores = (q @ k.mT / layer.head_size**0.5).masked_fill(~allowed, -torch.inf)
        result += list(torch.softmax(scores.double(), -1)[0].numpy())
        x = block(x)
    return result


def test_every_statistic_is_that_of_the_whole_weights(opened: RegardTextModel, seen: RunReport) -> None:
    n = len(seen.tokens)
    place = np.arange(n)
    assert [head.name for head in seen.heads] == ["0.0", "0.1", "1.0", "1.1", "1.2", "1.3"]
    for head, w in zip(seen.heads, weights_of(opened, seen), strict=True):
        visible = np.minimum(place + 1, WINDOW) if head.layer == 0 else place + 1
        entropy = -(w * np.log(np.where(w > 0, w, 1))).sum(-1)
        close: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-5}
        assert (head.visible == visible).all()
        np.testing.assert_allclose(head.entropy, (entropy[1:] / np.log(visible[1:])).mean(), **close)
        np.testing.assert_allclose(head.support, np.exp(entropy[1:]).mean(), **close)
        np.testing.assert_allclose(head.previous, np.diag(w, -1).mean(), **close)
        np.testing.assert_allclose(head.first, w[1:, 0].mean(), **close)
        distance = (w * np.abs(place[:, None] - place)).sum(-1)[1:].mean()
        np.testing.assert_allclose(head.distance, distance, **close)
        np.testing.assert_allclose(head.received, w.sum(0), **close)
        np.testing.assert_allclose(head.uniform, ((w > 0) / visible[:, None]).sum(0), **close)
        top = -np.sort(-w, -1)[:, :TOP]
        np.testing.assert_allclose(head.weights, top, **close)
        rows, cols = head.map.values.shape
        whole = w if not head.map.by_distance else by_distance(w, WINDOW)
        assert cols == (WINDOW if head.map.by_distance else min(n, CELLS))
        for i in range(rows):
            mine = whole[place * rows // n == i]
            each = np.arange(whole.shape[1]) * cols // whole.shape[1]
            cells = [mine[:, each == j] for j in range(cols)]
            wanted = [c.mean() if head.map.by_distance else c.max() for c in cells]
            np.testing.assert_allclose(head.map.values[i], wanted, **close)


def by_distance(w: ndarray, reach: int) -> ndarray:
    """Column c holds the weight on the key reach − 1 − c before the query, 0 where there is none."""
    back = np.arange(reach - 1, -1, -1)
    keys = np.arange(len(w))[:, None] - back
    return np.where(keys >= 0, np.take_along_axis(w, np.maximum(keys, 0), -1), 0)


@pytest.mark.parametrize("rows", [7, 100])
def test_bands_are_joined_from_blocks(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_maps, "ROWS", 8)
    q, k = torch.randn(2, 1, 2, 50, 4).unbind()
    mask = Causal() & Window(5)
    found = head_maps.maps_by_distance(Weights.of(q, k, mask=mask), rows, 6)[0]
    rows = min(rows, 50)
    allowed = dense(mask, Sizes(1, 2, 2, 50, 50, 4, 4, q.device))
    weights = torch.softmax((q @ k.mT / 2).masked_fill(~allowed, -torch.inf), -1)
    for head in range(2):
        whole = by_distance(weights[0, head].numpy(), 6)
        for i in range(rows):
            mine = whole[np.arange(50) * rows // 50 == i]
            np.testing.assert_allclose(found[head, i], mine.mean(0), atol=1e-6)


@pytest.mark.parametrize("mask", [Causal(), Causal() & Window(3), ~Causal(), Causal() & torch.eye(600).bool()])
def test_even_counts_what_a_mask_lets_be_seen(mask: Any) -> None:
    sizes = Sizes(1, 2, 2, 600, 600, 1, 1, torch.device("cpu"))
    allowed = dense(mask, sizes)[0].numpy()
    counts = allowed.sum(-1)
    found = uniform_baseline(mask, sizes)
    assert (found.visible == counts).all()
    share = (allowed / np.maximum(counts, 1)[..., None]).sum(1)
    np.testing.assert_allclose(found.share, share)


@pytest.mark.usefixtures("small_chunks")
def test_nothing_is_n_by_n_and_progress_reaches_its_end(opened: RegardTextModel) -> None:
    told: list[tuple[int, int]] = []
    text = TEXT * 8
    with Largest() as largest:
        found = report_of(opened, TextSource("long", text, 0), on_analysed=lambda *at: told.append(at))
    n = len(found.tokens)
    assert n > 500
    assert largest.most < n * n / 4
    assert told == sorted(told)
    assert len(told) == len(found.visibility)
    assert told[-1] == (len(found.visibility), len(found.visibility))


def test_a_layer_and_a_head_can_be_chosen(opened: RegardTextModel, seen: RunReport) -> None:
    source = seen.source
    some = report_of(opened, source, layer=1, head=2)
    assert [head.name for head in some.heads] == ["1.2"]
    np.testing.assert_allclose(some.heads[0].received, seen.heads[4].received, rtol=1e-5)
    assert [head.name for head in report_of(opened, source, head=1).heads] == ["0.1", "1.1"]
    for layer, head, said in ((2, None, "--layer"), (-1, None, "--layer"), (0, 2, "--head"), (None, 4, "--head")):
        with pytest.raises(OptionError, match=f"{said}: got .*allowed: 0 to "):
            report_of(opened, source, layer=layer, head=head)


def test_one_token_is_enough(opened: RegardTextModel) -> None:
    found = report_of(opened, TextSource("short", "x", 1))
    assert len(found.tokens) == 2
    look_tables.show(Console(file=io.StringIO()), found)


# ---------------------------------------------------------------- what is picked and shown


def test_links_tell_something(seen: RunReport) -> None:
    for head in seen.heads:
        links = highlighted_links(seen, head, 10)
        assert [link.weight for link in links] == sorted((link.weight for link in links), reverse=True)
        pairs = {(seen.tokens.texts[q].strip(), seen.tokens.texts[k].strip()) for q, k, _ in links}
        assert len(pairs) == len(links)
        for query, key, weight in links:
            assert key > 0
            assert query - key >= 2
            assert weight in head.weights[query][head.keys[query] == key]
            assert seen.tokens.texts[query].strip()


def test_heads_are_picked_by_what_they_do(seen: RunReport) -> None:
    n = len(seen.tokens)
    plain = seen.heads[2]
    previous = replace(plain, head=7, scores=scored(plain, "previous token", 0.9))
    keys, weights = plain.keys.copy(), np.zeros_like(plain.weights)
    for query in range(n):  # all on the token after the last earlier copy
        earlier = [k for k in range(1, query) if seen.tokens.ids[k - 1] == seen.tokens.ids[query]]
        if earlier:
            keys[query, 0], weights[query, 0] = earlier[-1], 1
    kinds = link_kinds(keys, np.arange(n), np.array(seen.tokens.ids), n, False)
    given = float((weights * kinds["induction"]).sum(-1)[1:].mean())
    induction = replace(plain, head=8, scores=scored(plain, "induction", given))
    picks = {pick.title: pick for pick in highlighted_heads(replace(seen, heads=[*seen.heads, previous, induction]))}
    assert picks["previous token"].head is previous
    assert "90%" in picks["previous token"].why
    assert picks["induction"].head is induction
    assert highlighted_heads(replace(seen, heads=[plain]))[0].head is plain


def test_a_snippet_is_the_token_in_its_line(seen: RunReport) -> None:
    lines = TEXT.split("\n")
    for token in range(1, len(seen.tokens)):
        part = snippet(seen, token, 200)
        if part.token not in "↵␣":
            assert part.before + part.token + part.after == printable(lines[part.position - 1].strip()).replace(
                "\t", " "
            )
        assert len("".join(snippet(seen, token, 20)[1:])) <= max(20, 8 + len(part.token))
        assert "\x1b" not in "".join(part[1:])


@pytest.mark.parametrize("width", [30, 60, 140])
@pytest.mark.parametrize("colour", [None, "truecolor"])
def test_terminal_at_any_width(seen: RunReport, width: int, colour: Any) -> None:
    out = io.StringIO()
    console = Console(file=out, width=width, color_system=colour, force_terminal=colour is not None, highlight=False)
    look_tables.show(console, seen)
    text = out.getvalue()
    plain = re.sub(r"\x1b\[[\d;]*m", "", text)
    assert all(head.name in plain for head in seen.heads)
    assert "maximum" in plain
    assert ("\x1b" in text) is (colour is not None)
    if width == 140:
        assert max(map(len, plain.splitlines())) <= width
        assert "some <file>.py" in plain


def test_shrinking_a_map_stays_exact(seen: RunReport) -> None:
    n = 103
    values = np.random.default_rng(0).random((n, 90)).astype(np.float32)
    rows = np.arange(n) * 20 // n
    for far, reduce in ((False, np.maximum), (True, np.add)):
        fine = np.stack([reduce.reduce(values[rows == i], 0) / (1, sum(rows == i))[far] for i in range(20)])
        small = HeadMap(fine, far).shrink(n, 7, 40)
        assert small.shape == (7, 30)
        mine = values[(rows // 3) == 2][:, 3:6]
        np.testing.assert_allclose(small[2, 1], mine.mean() if far else mine.max(), rtol=1e-5)


def test_levels_are_even_in_the_logarithm() -> None:
    levels = Scale(1.0, levels=4).of(np.array([0, 1e-5, 1e-4, 1.1e-3, 1.1e-2, 0.11, 1.0]))
    assert levels.tolist() == [0, 0, 1, 2, 3, 4, 4]


# ---------------------------------------------------------------- the file


def test_png_is_what_the_specification_says() -> None:
    levels = np.array([[0, 1, 2], [255, 3, 0]], np.uint8)
    data = images.png(levels, viridis())
    assert data.startswith(images.SIGNATURE)
    chunks: dict[bytes, bytes] = {}
    rest = data[8:]
    while rest:
        (size,) = struct.unpack(">I", rest[:4])
        kind, body = rest[4:8], rest[8 : 8 + size]
        assert struct.unpack(">I", rest[8 + size : 12 + size])[0] == zlib.crc32(kind + body)
        chunks[kind], rest = body, rest[12 + size :]
    assert list(chunks) == [b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"]
    assert struct.unpack(">IIBBBBB", chunks[b"IHDR"]) == (3, 2, 8, 3, 0, 0, 0)
    assert len(chunks[b"PLTE"]) == 3 * 256
    lines = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(2, 4)
    assert (lines == np.pad(levels, ((0, 0), (1, 0)))).all()


def test_where_a_page_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="a folder"):
        atomic_files.writable_path(tmp_path)
    with pytest.raises(OptionError, match=r"not there.*mkdir"):
        atomic_files.writable_path(tmp_path / "no" / "page.html")
    assert atomic_files.writable_path(tmp_path / "page.html") == tmp_path / "page.html"


def test_two_who_write_the_same_file_do_not_meet(tmp_path: Path) -> None:
    """As two threads of a process do: one ends while the other is in the middle."""
    path = tmp_path / "page.html"

    def slow() -> Iterator[str]:
        yield "the "
        assert atomic_files.write_text("other", path) == 5
        yield "last"

    assert atomic_files.write_text(slow(), path) == 8
    assert path.read_text() == "the last"
    assert [*tmp_path.iterdir()] == [path]


# ---------------------------------------------------------------- what is read


def test_what_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "some.py"
    path.write_bytes(b"\xef\xbb\xbfx = 1\n")
    assert read_source(str(path)) == TextSource("some.py", "x = 1\n", 9)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("é".encode())))
    assert read_source("-") == TextSource("standard input", "é", 2)
    package = tmp_path / "logs" / "__init__.py"
    package.parent.mkdir()
    package.write_text("y")
    assert read_source(str(package)).name == "logs/__init__.py"
    assert read_source("x = f(1.5)").text == "x = f(1.5)"
    assert read_source("x " * 4000).lines == 1
    assert TextSource("", "a\nb", 3).lines == TextSource("", "a\nb\n", 4).lines == 2


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("none.py", None, "which is not there"),
        ("empty.py", b"", "which is empty"),
        ("binary.py", b"ab\0c", "binary data"),
        ("latin.py", b"abc\xe9\n", "byte 3 is not UTF-8"),
        (".", None, "a folder"),
    ],
)
def test_what_cannot_be_read(tmp_path: Path, name: str, content: bytes | None, said: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(OptionError, match=said):
        read_source(str(tmp_path / name))


@pytest.mark.parametrize("files", [(), ("tokenizer.json",), ("tokenizer.json", "weights.safetensors")])
def test_models_that_cannot_be_opened(tmp_path: Path, files: tuple[str, ...]) -> None:
    with pytest.raises(OptionError, match=r"--model: got gpt2, which is not on this machine.*hf download gpt2"):
        open_model("gpt2")
    for name in files:
        (tmp_path / name).write_text("{}")
    with pytest.raises(OptionError, match=r"--model: got .*allowed: .*"):
        open_model(str(tmp_path))


def test_head_names_are_counted_from_zero(seen: RunReport) -> None:
    head: HeadReport = seen.heads[0]
    assert (head.name, head.layer, head.head) == ("0.0", 0, 0)
    assert seen.visibility == [f"sees {WINDOW} tokens back", "sees everything before it"]
