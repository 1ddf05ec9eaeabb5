"""Figures: what is drawn is the library's numbers, and what is written beside it is true."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
import torch

from regard import ALiBi, Causal, Pooled, Recording, Weights, observe, record
from regard.errors import RegardError
from regard.nn import MultiHeadAttention, Transformer
from regard.plot.source import map_source_of

mpl.use("Agg")

import matplotlib.pyplot as plt

import regard.plot

plot: Any = regard.plot

N = 300
TEXTS = [f"t{i}" for i in range(N)]
TEXTS[3:6] = ["$x_1$", "a\nb", " "]


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    """No figure stays open, and no setting is changed."""
    before = dict(mpl.rcParams)
    yield
    assert dict(mpl.rcParams) == before
    plt.close("all")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    """Two layers of different heads."""
    torch.manual_seed(0)
    layers = [MultiHeadAttention(32, h, mask=Causal(), bias=ALiBi(heads=h)) for h in (4, 2)]
    path = tmp_path_factory.mktemp("run") / "run.safetensors"
    return record(Transformer(50, layers), torch.randint(50, (1, N)), to=path, tokens=TEXTS)


def labels(ticks: Any) -> list[str]:
    return [tick.get_text() for tick in ticks]


def test_a_map_is_the_pooled_weights_and_says_what_a_pixel_is(run: Recording) -> None:
    layer = run.layer(0)
    ax = plot.map(layer.head(2), size=100, how="mean")
    want = layer.see(one := Pooled(100, 100, "mean"))[one][0, 2].numpy()
    image = ax.images[0]
    np.testing.assert_allclose(np.ma.filled(image.get_array(), 0), want, rtol=1e-6)
    assert image.get_extent() == [-0.5, N - 0.5, N - 0.5, -0.5]
    bar: Any = image.colorbar
    assert bar.ax.get_ylabel() == "attention weight\n1 px = 3×3 weights, mean"
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("key", "query")
    assert image.norm.vmax / image.norm.vmin == pytest.approx(1e4)
    ax.figure.canvas.draw()


def test_a_rectangle_has_its_tokens_as_ticks(run: Recording) -> None:
    ax = plot.map(run.layer(1).head(0), queries=(2, 12), keys=(0, 8), log=False)
    want = run.layer(1).weights[0, 0, 2:12, :8].numpy()
    np.testing.assert_array_equal(ax.images[0].get_array(), want)
    ax.figure.canvas.draw()
    assert labels(ax.get_yticklabels())[:5] == ["t2", r"\$x_1\$", "a↵b", "␣", "t6"]
    assert ax.get_yticks().tolist() == list(range(2, 12))
    assert labels(ax.get_xticklabels())[-1] == "t7"
    bar: Any = ax.images[0].colorbar
    assert bar.ax.get_ylabel() == "attention weight\n1 px = 1 weight"
    long = plot.map(run.layer(1).head(0))
    assert labels(long.get_xticklabels())[1] == "38 t38"


def test_weights_tensors_and_heads_agree(run: Recording) -> None:
    layer = run.layer(0)
    whole = layer.weights[0, 1]
    drawn = [
        plot.map(one, size=37, **which).images[0].get_array()
        for one, which in (
            (layer.head(1), {}),
            (layer.weights, {"head": 1}),
            (layer.weights.head(1), {}),
            (whole, {}),
            (whole.double().numpy(), {}),
        )
    ]
    for other in drawn[1:]:
        np.testing.assert_allclose(np.ma.filled(other, 0), np.ma.filled(drawn[0], 0), rtol=1e-5)


def test_a_difference_has_signed_colours_and_keeps_what_is_farthest_from_0(run: Recording) -> None:
    apart = run.layer(0).weights[0, 0] - run.layer(0).weights[0, 1]
    ax = plot.map(apart, size=50)
    image = ax.images[0]
    cell = apart[6:12, :6].flatten()
    assert image.get_array()[1, 0] == pytest.approx(cell[cell.abs().argmax()])
    assert float(np.asarray(image.get_array()).min()) < 0
    assert image.norm.vmin == -image.norm.vmax == pytest.approx(-apart.abs().max())
    bar: Any = image.colorbar
    assert bar.ax.get_ylabel() == "difference\n1 px = 6×6 weights, farthest from 0"


def test_never_all_weights_of_a_long_text() -> None:
    q, k = torch.randn(2, 1, 2, 20_000, 8).unbind()
    ax = plot.map(Weights.of(q, k, mask=Causal()), head=0, queries=(0, 5000))
    assert ax.images[0].get_array().shape == (512, 512)


def test_axes_that_are_given_are_drawn_into(run: Recording) -> None:
    figure: Any = plt.figure()
    left, right = figure.subplots(1, 2)
    assert plot.map(run.layer(0).head(0), ax=left) is left
    assert plot.row(run.layer(0).head(0), 5, ax=right) is right
    assert plt.get_fignums() == [figure.number]


def test_heads_are_all_there_on_one_scale(run: Recording) -> None:
    axes = plot.heads(run, size=30)
    assert axes.shape == (2, 4)
    scales = set[tuple[float, float]]()
    for number, layer in enumerate(run):
        want = layer.see(one := Pooled(30, 30, "max"))[one][0]
        for head in range(layer.heads):
            image = axes[number, head].images[0]
            np.testing.assert_allclose(np.ma.filled(image.get_array(), 0), want[head], rtol=1e-6)
            scales.add(image.get_clim())
    assert len(scales) == 1
    assert not axes[1, 2].axison
    assert [ax.get_title() for ax in axes[0]] == ["0", "1", "2", "3"]
    assert [ax.get_ylabel() for ax in axes[:, 0]] == ["0", "1"]
    labelled = [ax.get_ylabel() for ax in axes[0, 0].figure.axes]
    assert "attention weight\n1 px = 10×10 weights, maximum" in labelled
    axes[0, 0].figure.canvas.draw()


def test_heads_of_what_was_pooled_before() -> None:
    q = torch.randn(2, 3, 40, 8)
    one = Pooled(8, 8)
    pooled = observe(q, q, q, one, mask=Causal())[one]
    axes = plot.heads({"first": pooled, "last": pooled[1]}, batch=1, log=False)
    np.testing.assert_array_equal(axes[0, 2].images[0].get_array(), pooled[1, 2])
    np.testing.assert_array_equal(axes[1, 2].images[0].get_array(), pooled[1, 2])
    assert [ax.get_ylabel() for ax in axes[:, 0]] == ["first", "last"]


def test_a_row_has_its_strongest_keys_and_their_mass(run: Recording) -> None:
    head = run.layer(0).head(3)
    want = head.weights[200].sort(descending=True)
    ax = plot.row(head, 200, top=10)
    assert [bar.get_width() for bar in ax.patches] == want.values[:10].tolist()
    assert labels(ax.get_yticklabels()) == [f"{i} t{i}" for i in want.indices[:10].tolist()]
    np.testing.assert_allclose(ax.lines[0].get_xdata(), want.values[:10].cumsum(0), rtol=1e-6)
    assert ax.get_title() == "weights of query 200 t200"
    few = plot.row(head, 2)
    assert len(few.patches) == 3  # the others may not be seen


def test_a_row_in_the_order_of_the_text() -> None:
    weights = torch.rand(1, 1000)
    weights /= weights.sum()
    ax = plot.row(weights, 0, top=None)
    drawn = ax.patches[0].get_data()
    assert ax.get_ylabel() == "greatest of 3 weights\nline: mass so far"
    np.testing.assert_allclose(drawn.values[:333], weights[0, :999].reshape(333, 3).amax(1))
    assert drawn.edges[-1] == 999.5
    assert float(np.asarray(ax.lines[0].get_ydata())[-1]) == pytest.approx(1, abs=1e-5)


def test_more_keys_than_queries_stand_where_a_cache_has_them() -> None:
    ax = plot.map(torch.rand(2, 5), tokens=list("abcde"))
    assert labels(ax.get_yticklabels()) == ["d", "e"]
    assert labels(ax.get_xticklabels()) == list("abcde")


def test_what_does_not_fit_says_what_to_do(run: Recording) -> None:
    layer, numbers = run.layer(0), torch.rand(4, 4)
    for call, said in (
        (lambda: plot.map(layer.weights), "0 to 3, for Weights"),
        (lambda: plot.map(layer.weights, head=4), "for heads a number"),
        (lambda: plot.map(layer.head(0), head=1), "leave them out"),
        (lambda: plot.map(torch.rand(1, 4, 4)), "weights\\[0, 3\\]"),
        (lambda: map_source_of("text", None, 0, None), "regard.plot.heads"),
        (lambda: plot.map(numbers, how="min"), "'mean', 'max' or 'sum'"),
        (lambda: plot.map(numbers, size=0), "whole number"),
        (lambda: plot.map(numbers, queries=(2, 2)), "start < stop"),
        (lambda: plot.map(numbers, keys=(2, 9)), "within the 4 keys"),
        (lambda: plot.map(numbers, tokens=["a"]), "one for each of 4"),
        (lambda: plot.row(numbers, 4), "0 to 3"),
        (lambda: plot.row(numbers, 0, top=0), "1 or more keys"),
        (lambda: plot.heads([]), "at least one"),
        (lambda: plot.heads([numbers]), "heads, rows, cols"),
    ):
        with pytest.raises(RegardError, match=said):
            call()
    assert plt.get_fignums() == []


def test_without_matplotlib_it_says_which_extra() -> None:
    code = "import sys; sys.modules['matplotlib'] = None\nimport regard.plot"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert 'pip install "regard[plot]"' in done.stderr


def test_a_figure_is_written_with_its_text_as_text(run: Recording, tmp_path: Any) -> None:
    ax = plot.map(run.layer(0).head(0), queries=(0, 10), keys=(0, 10))
    path = tmp_path / "map.pdf"
    ax.figure.savefig(path)
    data = path.read_bytes()
    assert 1 <= data.count(b"/Subtype /Image") <= 4, "the map and the colour bar alone are pixels"
    assert b"/Type /Font " in data


def test_one_token_has_one_tick() -> None:
    ax = plot.map(torch.ones(1, 1))
    assert list(ax.get_xticks()) == list(ax.get_yticks()) == [0]
