"""Pyramids are built once, kept, read again, and built anew where they are no longer what they were."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from regard import Additive, Blocks, Causal, Pooled, Recording, Window, record
from regard.analysis import head_statistics, layer_pyramid, pyramid
from regard.analysis.layers import Layer
from regard.analysis.map_tiles import MapView, NotBuilt, map_tile
from regard.analysis.open_recording import OpenRecording
from regard.analysis.pyramid import Damaged, Pyramid, PyramidWriter
from regard.analysis.pyramid_builder import PyramidBuilder
from regard.explorer.server import application
from regard.explorer.state import Explorer
from regard.nn import MultiHeadAttention, Transformer
from regard.system.cache_folder import cache_folder

N = 450


def recorded(path: Path, *layers: MultiHeadAttention, n: int = N) -> Recording:
    torch.manual_seed(1)
    return record(Transformer(30, layers), torch.randint(30, (1, n)), to=path / "run.safetensors")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pyramids of short texts, of several strips."""
    monkeypatch.setattr(pyramid, "LEAST", 64)
    for module in (pyramid, layer_pyramid):
        monkeypatch.setattr(module, "STRIP", 16)
    monkeypatch.setattr(pyramid, "LEVELS", 5)


@pytest.fixture
def one(tmp_path: Path, small: None, home: Path) -> Recording:
    return recorded(tmp_path, MultiHeadAttention(8, 2, mask=Causal() & Window(100)))


def built(run: Recording) -> PyramidBuilder:
    building = PyramidBuilder(OpenRecording.of(run))
    building.start()
    building.wait()
    assert building.failed is None
    return building


def files(run: Recording) -> list[Path]:
    return sorted(run.path.with_name(f"{run.path.name}.explorer").iterdir())


def test_what_was_built_is_read_again(one: Recording, monkeypatch: pytest.MonkeyPatch) -> None:
    heads = built(one).heads()
    assert [path.name for path in files(one)] == [f"{one.key}-0.pyramid", f"{one.key}-1.pyramid"]
    before = [path.stat().st_mtime_ns for path in files(one)]

    def again(*arguments: object) -> None:
        raise AssertionError("built again")

    monkeypatch.setattr(layer_pyramid, "write_layer", again)
    monkeypatch.setattr(head_statistics, "head_similarity", again)
    assert built(one).heads() == heads
    assert [path.stat().st_mtime_ns for path in files(one)] == before


@pytest.mark.parametrize("how", ["cut", "empty", "changed in its index", "changed at its end", "of another"])
def test_a_damaged_file_is_built_again(one: Recording, how: str) -> None:
    heads = built(one).heads()
    path = files(one)[0]
    data = bytearray(path.read_bytes())
    if how == "cut":
        data = data[: len(data) // 2]
    elif how == "empty":
        data = bytearray()
    elif how == "changed in its index":
        data[-100] ^= 1
    elif how == "changed at its end":
        data[-1] ^= 1
    else:
        data = bytearray(files(one)[1].read_bytes())
    path.write_bytes(data)
    assert built(one).heads() == heads
    assert path.read_bytes() != bytes(data)


@pytest.mark.parametrize("how", ["changed", "shorter", "gone"])
def test_cells_that_change_while_the_server_runs_are_built_again(one: Recording, how: str) -> None:
    built(one)
    path = files(one)[0]
    data = bytearray(path.read_bytes())
    whole = bytes(data)
    explorer = Explorer({book.id: book for book in [OpenRecording.of(one)]})
    (building,) = explorer.builders.values()
    client = TestClient(application(explorer, 81, "t"), "http://127.0.0.1:81", headers={"X-Regard-Token": "t"})
    building.start()
    building.wait()
    if how == "gone":
        path.unlink()
    else:
        data[40] ^= 0xFF  # in the first strip
        path.write_bytes(data if how == "changed" else data[:50])
    place = f"/api/recordings/{one.key[:16]}/map/0/0?q=0,256&k=0,256&rows=16&cols=16"
    response = client.get(place)
    building.wait()
    if response.status_code == 202:
        response = client.get(place)
    wanted = one.layer(0).weights.see(Pooled(16, 16, "max", queries=(0, 256), keys=(0, 256)))[0, 0]
    assert response.content == wanted.numpy().tobytes()
    assert path.read_bytes() == whole
    explorer.close()


def test_a_folder_that_cannot_be_written_to_is_not(one: Recording, home: Path) -> None:
    one.path.with_name(f"{one.path.name}.explorer").write_text("in the way")
    assert built(one).heads()
    kept = home / "pyramids"
    assert len([*kept.iterdir()]) == 2
    before = [path.stat().st_mtime_ns for path in kept.iterdir()]
    assert built(one).heads()
    assert [path.stat().st_mtime_ns for path in kept.iterdir()] == before


def test_the_cache_folder_is_that_of_the_system(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "regard"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert cache_folder() == tmp_path / ".cache" / "regard"
    (tmp_path / "Library" / "Caches").mkdir(parents=True)
    assert cache_folder() == tmp_path / "Library" / "Caches" / "regard"


def test_a_build_that_fails_says_why_and_leaves_nothing(one: Recording, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(PyramidWriter, "strip", full)
    building = PyramidBuilder(OpenRecording.of(one))
    building.start()
    building.wait()
    assert building.failed is not None
    assert "No space left" in building.failed
    assert building.ended
    assert files(one) == []


def test_a_build_ends_between_two_strips(one: Recording, monkeypatch: pytest.MonkeyPatch) -> None:
    building = PyramidBuilder(OpenRecording.of(one))
    strip = PyramidWriter.strip

    def first(self: PyramidWriter, number: int, left: int, cells: np.ndarray) -> None:
        building._stop.set()
        assert number == 0, "it went on"
        strip(self, number, left, cells)

    monkeypatch.setattr(PyramidWriter, "strip", first)
    building.start()
    building.wait()
    assert (building.failed, building.heads(), files(one)) == (None, None, [])


def test_a_layer_that_is_asked_for_comes_first(tmp_path: Path, small: None, home: Path) -> None:
    run = recorded(tmp_path, *(MultiHeadAttention(8, 1, mask=Causal()) for _ in range(3)), n=200)
    building = PyramidBuilder(OpenRecording.of(run))
    assert building.layer(2) is None
    told, build = list[int](), building._build

    def built(number: int, done: int, total: int) -> None:
        told.append(number)
        build(number, done, total)

    building._build = built
    building.start()
    building.wait()
    assert told == [2, 0, 1]


def test_two_who_build_the_same_do_not_meet(one: Recording, small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """As two widgets of one recording do: each is in the middle of a file when the other ends."""
    both, meeting = [PyramidBuilder(OpenRecording.of(one)) for _ in range(2)], threading.Barrier(2)
    put = PyramidWriter.put

    def together(self: PyramidWriter, name: str, array: np.ndarray) -> None:
        if name == "means":
            meeting.wait(10)
        put(self, name, array)

    monkeypatch.setattr(PyramidWriter, "put", together)
    for building in both:
        building.start()
    for building in both:
        building.wait()
    assert [building.failed for building in both] == [None, None]
    assert both[0].heads() is not None
    assert both[0].heads() == both[1].heads()
    assert not [path for path in files(one) if "partial" in path.name]


def test_a_layer_that_is_damaged_while_others_are_built_is_built_again(tmp_path: Path, small: None, home: Path) -> None:
    run = recorded(tmp_path, *(MultiHeadAttention(8, 1, mask=Causal()) for _ in range(3)), n=200)
    building = PyramidBuilder(OpenRecording.of(run))
    told, build = list[int](), building._build

    def built(number: int, done: int, total: int) -> None:
        told.append(number)
        build(number, done, total)
        if told == [0, 1]:
            building.damaged(0)

    building._build = built
    building.start()
    building.wait()
    assert told == [0, 1, 2, 0]
    assert building.failed is None
    assert building.heads() is not None


LAYERS = {
    "causal": lambda: MultiHeadAttention(8, 2, mask=Causal()),
    "window": lambda: MultiHeadAttention(8, 2, mask=Causal() & Window(60)),
    "a strip that sees itself alone": lambda: MultiHeadAttention(8, 2, mask=Causal() & Window(0)),
    "a strip that sees nothing": lambda: MultiHeadAttention(
        8, 2, mask=(torch.arange(N) < 200)[:, None] & (torch.arange(N) > 70)
    ),
    "blocks": lambda: MultiHeadAttention(8, 4, key_value_heads=2, mask=Blocks(torch.rand(15, 15) > 0.5, 32)),
    "pairs of each head": lambda: MultiHeadAttention(8, 4, mask=torch.rand(1, 4, N, N) > 0.5),
    "a score of its own": lambda: MultiHeadAttention(8, 2, mask=Causal(), score=Additive(torch.randn(2, 4))),
}


@pytest.mark.parametrize("name", LAYERS)
def test_every_map_of_a_pyramid_is_pooled_from_the_weights(tmp_path: Path, small: None, home: Path, name: str) -> None:
    run = recorded(tmp_path, LAYERS[name]())
    made = built(run).layer(0)
    assert made is not None
    layer = Layer(run.layer(0))
    weights = run.layer(0).weights[0].numpy()
    for head in range(layer.heads):
        for q, k, pixel in [
            ((0, N), (0, N), 16),  # edges are not on cells
            ((0, 256), (128, 384), 64),
            ((256, 448), (0, 448), 16),
            ((256, 448), (192, 448), 64),
            ((256, N), (0, N), 128),
            ((448, N), (256, 448), 64),  # what the end of the text cuts
            ((448, N), (448, N), 128),
        ]:
            q0, k0 = range(*q), range(*k)
            rows, cols = (-(-len(side) // pixel) for side in (q0, k0))
            for how in ("max", "sum", "mean"):
                found = map_tile(layer, MapView(head, q0, k0, rows, cols, how), made, False, lambda: None)
                plain = run.layer(0).weights.see(Pooled(rows, cols, how, queries=q, keys=k))[0, head]
                np.testing.assert_allclose(found.values, plain.numpy(), rtol=1e-5, atol=1e-6)
    whole = map_tile(layer, MapView(0, range(N), range(N), 28, 28, "max"), made, False, lambda: None)
    assert whole.values.max() == weights[0].max()


def test_a_map_whose_edges_are_on_cells_takes_no_weights(one: Recording, monkeypatch: pytest.MonkeyPatch) -> None:
    made = built(one).layer(0)
    layer = Layer(one.layer(0))
    monkeypatch.setattr(Layer, "_head", None)  # who computes weights
    for q, k, pixel in [((0, 448), (0, 448), 16), ((448, N), (0, 448), 64), ((448, N),) * 2 + (64,)]:
        q, k = range(*q), range(*k)
        rows, cols = (-(-len(side) // pixel) for side in (q, k))
        found = map_tile(layer, MapView(0, q, k, rows, cols, "max"), made, False, lambda: None)
        assert (found.snapped, found.values.shape) == (0, (rows, cols))


@given(data=st.data())
def test_a_view_without_a_pyramid_is_pooled(run: Recording, data: st.DataObject) -> None:
    layer = Layer(run.layer(1))
    q0, k0 = (data.draw(st.integers(0, 2400), name) for name in ("q", "k"))
    q, k = (range(at, data.draw(st.integers(at + 1, 2500))) for at in (q0, k0))
    rows, cols = (data.draw(st.integers(1, min(len(side), 90))) for side in (q, k))
    how = data.draw(st.sampled_from(["max", "sum"]))
    found = map_tile(layer, MapView(2, q, k, rows, cols, how), None, False, lambda: None).values
    asked = Pooled(rows, cols, how, queries=(q.start, q.stop), keys=(k.start, k.stop))
    wanted = run.layer(1).weights.see(asked)[0, 2].numpy()
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_blocks_of_a_map_are_joined(run: Recording, monkeypatch: pytest.MonkeyPatch) -> None:
    from regard.analysis import map_tiles

    monkeypatch.setattr(map_tiles, "BLOCK", 1 << 12)
    layer, asked = Layer(run.layer(0)), 0

    def check() -> None:
        nonlocal asked
        asked += 1

    for rows, cols in ((700, 600), (97, 41)):
        view = MapView(1, range(300, 1000), range(100, 700), rows, cols, "max")
        found = map_tile(layer, view, None, False, check).values
        wanted = run.layer(0).weights.see(Pooled(rows, cols, "max", (300, 1000), (100, 700)))[0, 1]
        assert (found == wanted.numpy()).all()
    assert asked > 50


@pytest.mark.parametrize(("pixels", "step"), [(30, 16), (4, 64)])
def test_edges_between_cells_are_moved_where_a_map_is_large(
    run: Recording, explorer: Explorer, monkeypatch: pytest.MonkeyPatch, pixels: int, step: int
) -> None:
    from regard.analysis import map_tiles

    monkeypatch.setattr(map_tiles, "DIRECT", 1 << 10)
    (building,) = explorer.builders.values()
    made = building.layer(0)
    assert made is not None
    layer, weights = Layer(run.layer(0)), run.layer(0).weights[0, 0].numpy()
    q = range(100, 2300)
    found = map_tile(layer, MapView(0, q, q, pixels, pixels, "max"), made, False, lambda: None)
    assert found.snapped == step
    edges = [100 + -(-i * 2200 // pixels) for i in range(pixels + 1)]
    moved = [(edge + step // 2) // step * step for edge in edges]
    tall = np.maximum.reduceat(weights[: moved[-1], : moved[-1]], moved[:-1], 0)
    assert (found.values == np.maximum.reduceat(tall, moved[:-1], 1)).all()
    with pytest.raises(NotBuilt):
        map_tile(layer, MapView(0, q, q, 30, 30, "max"), None, True, lambda: None)


def test_a_pyramid_holds_only_what_is_seen(tmp_path: Path, small: None, home: Path) -> None:
    narrow = recorded(tmp_path, MultiHeadAttention(8, 2, mask=Causal() & Window(3)))
    built(narrow)
    size = files(narrow)[0].stat().st_size
    shutil.rmtree(files(narrow)[0].parent)
    wide = recorded(tmp_path, MultiHeadAttention(8, 2))
    built(wide)
    assert size < files(wide)[0].stat().st_size * 0.75


def test_a_file_of_something_else_is_not_taken(tmp_path: Path) -> None:
    about = {"cell": 16, "queries": 40, "keys": 40, "key": "a"}
    with PyramidWriter(tmp_path / "x", about) as writer:
        writer.put("numbers", np.arange(5))
        writer.finish()
    assert Pyramid(tmp_path / "x", about).array("numbers").tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(Damaged, match="something else"):
        Pyramid(tmp_path / "x", {**about, "key": "b"})
    with pytest.raises(Damaged, match="others"):
        Pyramid(tmp_path / "x", about).array("others")
    with pytest.raises(FileNotFoundError):
        Pyramid(tmp_path / "y", about)
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
