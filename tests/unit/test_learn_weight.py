"""The lesson on a recorded weight: what is printed adds up, and ends at the library's number."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from regard import Causal, Dot, Recording, Softmax, Window, record
from regard.cli import main
from regard.nn import MultiHeadAttention, Transformer


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A layer with a soft-cap, a sink and a window, and one of everything that is usual, inputs kept."""
    torch.manual_seed(2)
    layers = [
        MultiHeadAttention(24, 2, mask=Causal()),
        MultiHeadAttention(
            24, 2, mask=Causal() & Window(6), score=Dot(softcap=5.0), normalizer=Softmax.with_learned_sink(2)
        ),
    ]
    place = tmp_path_factory.mktemp("run") / "run.safetensors"
    tokens = [f"w{i} " for i in range(20)]
    record(
        Transformer(30, layers),
        torch.randint(30, (1, 20)),
        to=place,
        values=True,
        layer_inputs=True,
        tokens=tokens,
        text="".join(tokens),
    )
    return place


def told(capsys: pytest.CaptureFixture[str], path: Path, *options: str) -> str:
    assert main(["learn", str(path), *options]) == 0
    return capsys.readouterr().out.replace("−", "-")


def floats(line: str) -> list[float]:
    return [float(x) for x in re.findall(r"-?\d+(?:\.\d+)?(?:e-?\d+)?", line)]


@pytest.mark.parametrize(("layer", "head", "query", "key"), [(0, 1, 15, 3), (1, 0, 12, 8)])
def test_it_ends_at_the_weight_and_its_sums_add_up(
    path: Path, capsys: pytest.CaptureFixture[str], layer: int, head: int, query: int, key: int
) -> None:
    which = {"layer": layer, "head": head, "query": query, "key": key}
    out = told(capsys, path, *(f"--{name}={at}" for name, at in which.items()))
    of = Recording.open(path).layer(layer)
    weight = float(of.weights[0, head, query, key])
    (line,) = re.findall(r"weight = .*", out)
    _, _, found = floats(line)
    assert found == pytest.approx(weight, abs=1e-6)
    (apart,) = re.findall(r"The two differ by (\S+)\.", " ".join(out.split()))
    assert float(apart) < 1e-6

    dot = float(of.q[0, head, query].double() @ of.k[0, head, key].double())
    (line,) = re.findall(r"q · k = (\S+)", out)
    assert float(line) == pytest.approx(dot, abs=6e-5)
    # In each table of products the last running sum and the others make the whole.
    tables = re.findall(r"sum so far\s*\n.*\n((?:.*\n)*?)\s*\d+ others +(\S+) +(\S+)", out)
    assert len(tables) == 4, "q, k, v and their product"
    for rows, others, total in tables:
        last = floats(rows.rstrip().splitlines()[-1])
        assert last[-1] + float(others) == pytest.approx(float(total), abs=2e-4)
        for row in rows.rstrip().splitlines():
            _, a, b, product, _ = floats(row)
            assert a * b == pytest.approx(product, abs=1e-3)

    values = of.out()[0, head, query]
    place = int(values.abs().argmax())
    (line,) = re.findall(rf"output\[{place}\] = (\S+)", out)
    assert float(line) == pytest.approx(float(values[place]), abs=1e-4)
    assert ("the sink" in out, "soft-cap" in out) == (layer == 1, layer == 1)


def test_by_default_it_is_the_strongest_weight_on_another_token(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = Recording.open(path).layer(0).weights[0, 0].fill_diagonal_(0)
    query, key = divmod(int(weights.argmax()), 20)
    said = f"query {query} “w{query} ” gives"
    assert said in " ".join(told(capsys, path).split())
    assert f"key {key} “w{key} ”" in " ".join(told(capsys, path, f"--query={query}").split())


def test_what_was_not_kept_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = Transformer(30, [MultiHeadAttention(8, 2, mask=Causal())])
    record(model, torch.randint(30, (1, 9)), to=tmp_path / "bare.safetensors")
    out = " ".join(told(capsys, tmp_path / "bare.safetensors", "--query=3", "--key=7").split())
    assert "regard record --inputs" in out
    assert "regard record --values" in out
    assert "The mask hides this key from this query" in out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--layer=2"], "--layer: got 2; allowed: 0 to 1."),
        (["--head=2"], "--head: got 2; allowed: 0 to 1."),
        (["--query=20"], "--query: got 20; allowed: 0 to 19."),
        (["--key=3"], "--key: got 3 without a query; allowed: --query and --key, or --query alone."),
        (["--text=a b"], "--text: got words and a recording; allowed: one of them."),
    ],
)
def test_refusals(path: Path, capsys: pytest.CaptureFixture[str], options: list[str], said: str) -> None:
    assert main(["learn", str(path), *options]) == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_a_place_without_a_recording_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["learn", "--layer=1"]) == 2
    assert "--layer: got no recording; allowed: a recording whose weight it names." in " ".join(
        capsys.readouterr().err.split()
    )
