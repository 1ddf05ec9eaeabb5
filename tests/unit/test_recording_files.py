"""The file of a recording: what it survives, what it refuses, and that nothing in it is ever run."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import resource
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import linear

from cases import Call, Case
from regard import Entropy, Pooled, Received, Recording, RegardError, Rows, Softmax, TopK, record
from regard.cli import main
from regard.nn import MultiHeadAttention
from regard.recording import container
from regard.recording.container import TensorFileReader, TensorFileWriter
from regard.recording.schema import FIELDS, from_json
from regard.recording.writer import DTYPES
from regard.spec.masks import Mask, Not
from regard.spec.values import Value
from regard.system.atomic_files import AtomicFile
from unit.test_recording import Calls, ours

pytestmark = pytest.mark.usefixtures("as_users_run_it")


class Reading(Calls):
    """Calls, and a layer of which it is known what it read."""

    def __init__(self, *calls: Call) -> None:
        super().__init__(*calls)
        torch.manual_seed(5)
        self.reading = MultiHeadAttention(
            6, 2, key_value_heads=1, value_size=2, qk_norm=torch.nn.RMSNorm, projection_bias=True
        )

    def forward(self) -> None:
        super().forward()
        self.reading(torch.ones(2, 3, 6))


MODEL = Reading(
    Case(mask="causal left padding", bias="alibi", score="soft-capped", shape="grouped").build(),
    Case(mask="where", bias="sum", normalizer="sink", shape="grouped").build(),
    Case(mask="placed", bias="placed", score="cosine per head", shape="grouped").build(),
    Case(mask="documents", bias="t5", normalizer="entmax15", shape="grouped").build(),
    Case(mask="blocks", bias="fire", score="shaw", shape="grouped").build(),
)


def made(path: Path) -> bytes:
    """A recording of many kinds of values, small enough to be damaged often."""
    record(MODEL, (), to=path, text="ab", tokens=["a", "b"], spans=[(0, 1), (1, 2)], values=True, layer_inputs=True)
    return path.read_bytes()


def asked(path: Path) -> list[Any]:
    """Everything that can be asked of a recording."""
    run = Recording.open(path)
    told: list[Any] = [str(run), run.text, run.tokens, run.spans]
    for layer in run:
        told.append(layer.see(Entropy(), TopK(2), Received(), Pooled(4, 4), Rows(0)))
        told.append(layer.see(Pooled(2, 2, queries=(0, 1))))
        if isinstance(layer.normalizer, Softmax):
            told += [layer.weights[0, 0, 0], layer.weights.see(Pooled(3, 3))]
        told.append(layer.out())
        read = layer.inputs
        parts = [] if read is None else [read.query, read.key, read.value]
        told.append(
            [
                linear(one.x.double(), one.weight.double(), None if one.bias is None else one.bias.double())
                for one in parts
            ]
        )
    return told


def header_of(data: bytes) -> dict[str, Any]:
    return json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])


def with_header(data: bytes, header: Any) -> bytes:
    """The same tensors behind another header."""
    old, new = int.from_bytes(data[:8], "little"), json.dumps(header).encode()
    return (
        len(new.ljust(old)).to_bytes(8, "little")
        + new.ljust(-(-len(new.ljust(old)) // 64) * 64 if len(new) > old else old)
        + data[8 + old :]
    )


def test_safetensors_itself_reads_it(tmp_path: Path) -> None:
    made(tmp_path / "run")
    run = Recording.open(tmp_path / "run")
    with safe_open(str(tmp_path / "run"), framework="pt") as file:
        assert file.metadata()["format"] == "regard.recording"
        for layer in run:
            assert torch.equal(file.get_tensor(f"layers/{layer.number}/q"), layer.q)
            assert torch.equal(file.get_tensor(f"layers/{layer.number}/lse"), layer.lse)
    addresses = [t.data_ptr() for layer in run for t in (layer.q, layer.k, layer.lse)]
    assert all(address % container.ALIGN == 0 for address in addresses)


@pytest.mark.parametrize("room", [0, 100, 100_000])
def test_a_header_that_needs_more_room_gets_it(room: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container, "_PIECE", 1000)
    parts = [torch.randn(n, 7, n) for n in (3, 1, 20)]
    with TensorFileWriter(tmp_path / "run", room) as writer:
        for i, part in enumerate(parts):
            writer.put(f"part {i}", part)
        writer.finish({}, {})
    reader = TensorFileReader(tmp_path / "run")
    assert all(torch.equal(reader.tensor(f"part {i}"), part) for i, part in enumerate(parts))
    assert reader.size >= room


def test_a_tensor_that_layers_share_is_written_once(tmp_path: Path) -> None:
    bias = torch.randn(1, 2, 33, 33)
    calls = [Case(mask="causal").build() for _ in range(3)]
    for call in calls:
        call.bias = Case(bias="dense").build().bias.with_tensors([bias.clone()])
    record(Calls(*calls), (), to=tmp_path / "run")
    held = [name for name in TensorFileReader(tmp_path / "run").entries if name.startswith("held/")]
    assert held == ["held/0"]


def test_what_a_reader_writes_stays_in_its_memory(tmp_path: Path) -> None:
    before = made(tmp_path / "run")
    Recording.open(tmp_path / "run").layer(0).q.zero_()
    assert (tmp_path / "run").read_bytes() == before


def test_opening_gigabytes_takes_no_memory(tmp_path: Path) -> None:
    path, n = tmp_path / "run", 1 << 24
    record(ours(1), torch.zeros(1, 4, dtype=torch.long), to=path)
    data = path.read_bytes()
    header, end = header_of(data), 0
    for part, shape in (("q", [1, 4, n, 32]), ("k", [1, 4, n, 32]), ("lse", [1, 4, n])):
        size = 4 * torch.Size(shape).numel()
        header[f"layers/0/{part}"] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    start = 8 + int.from_bytes(data[:8], "little")
    path.write_bytes(with_header(data, header)[:start])
    os.truncate(path, start + end)  # 17 GB of nothing, of which the disk holds none
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run = Recording.open(path)
    assert run.size > 1 << 34
    assert float(run.layer(0).q[0, 3, n - 1, 31]) == 0
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10


class Full:
    """A file on a disk that is full after so many bytes."""

    def __init__(self, file: IO[bytes], left: int) -> None:
        self.file, self.left = file, left

    def write(self, data: bytes) -> int:
        self.left -= len(data)
        if self.left < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self.file.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


@pytest.mark.parametrize("left", [0, 10_000, 30_000, 40_000])
def test_a_disk_that_fills_loses_nothing_that_was_there(
    left: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = made(tmp_path / "run")
    assert len(before) > 40_000

    begin = AtomicFile.__init__

    def on_a_full_disk(self: Any, path: Path) -> None:
        begin(self, path)
        self.file = Full(self.file, left)

    monkeypatch.setattr(AtomicFile, "__init__", on_a_full_disk)
    with pytest.raises(RegardError, match=r"whose disk is full; .*What was there is as it was"):
        made(tmp_path / "run")
    assert (tmp_path / "run").read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == ["run"]


def test_a_disk_without_room_is_refused_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("regard.recording.writer.shutil.disk_usage", lambda path: usage)
    with pytest.raises(RegardError, match=r"where 1000 B are free; allowed: a disk with the .* KiB"):
        made(tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_a_limit_of_the_system_is_a_full_disk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run"
    path.write_bytes(b"what was there")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        ended = main(["record", "x = 1\n" * 40, "-o", str(path)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert ended == 2
    assert f"record(to=…): got {path}, whose disk is full" in capsys.readouterr().err
    assert path.read_bytes() == b"what was there"
    assert [one.name for one in tmp_path.iterdir()] == ["run"]


def test_an_interrupt_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        record(MODEL, (), to=tmp_path / "run", progress=interrupt)
    assert list(tmp_path.iterdir()) == []


def newer(data: bytes) -> bytes:
    header = header_of(data)
    header["__metadata__"] |= {"version": "2", "regard": "9.9.9"}
    return with_header(data, header)


def other(data: bytes) -> bytes:
    header = header_of(data)
    header["__metadata__"]["format"] = "pt"
    return with_header(data, header)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda d: b"", "no safetensors file; .* that regard.record wrote. Make one: regard record"),
        (lambda d: b"a text, and no more", "no safetensors file"),
        (lambda d: b"PK\x03\x04" + d, "no safetensors file"),
        (other, "a safetensors file of something else"),
        (newer, r"of format 2, which regard 9\.9\.9 wrote; allowed: .*format 1 or older. Update regard"),
        (lambda d: d[:200], r"cut off: it has 200 bytes of [\d,]+ bytes of header"),
        (lambda d: d[:-200], r"cut off: it has [\d,]+ bytes of at least [\d,]+ bytes.*Copy it anew"),
        (lambda d: d[:23] + b"x" + d[24:], "damaged: its header cannot be read"),
    ],
)
def test_files_that_are_refused(spoil: Callable[[bytes], bytes], message: str, tmp_path: Path) -> None:
    path = tmp_path / "run"
    path.write_bytes(spoil(made(path)))
    with pytest.raises(RegardError, match=rf"Recording\.open: got {path}, .*{message}"):
        Recording.open(path)


def test_what_a_file_says_acts_neither_in_a_terminal_nor_in_a_notebook(tmp_path: Path) -> None:
    path = tmp_path / "run"
    header = header_of(data := made(path))
    about = json.loads(header["__metadata__"]["about"])
    about["layers"][0]["name"] = about["model"] = "\x1b[2J<script>\n"
    header["__metadata__"]["about"] = json.dumps(about)
    path.write_bytes(with_header(data, header))
    run = Recording.open(path)
    assert "\x1b" not in f"{run}{run!r}{run.layer(0)!r}"
    assert run.layer(0).name == "␛[2J<script>␊"
    assert "<script>" not in run._repr_html_()


def test_places_without_a_recording(tmp_path: Path) -> None:
    with pytest.raises(RegardError, match=r"which is not there; .*Check the path"):
        Recording.open(tmp_path / "nothing")
    with pytest.raises(RegardError, match=r"a folder; .*Name a file in it"):
        Recording.open(tmp_path)
    save_file({"x": torch.zeros(3)}, tmp_path / "weights.safetensors")
    with pytest.raises(RegardError, match="a safetensors file of something else"):
        Recording.open(tmp_path / "weights.safetensors")


@pytest.mark.parametrize(
    "form",
    [
        {"is": "Where", "function": "print"},
        {"is": "Custom", "function": "eval"},
        {"is": "os.system"},
        {"is": "regard.spec.masks:Causal"},
        {"is": "Mask"},
        {"is": "object"},
        {"is": "Causal"},
        {"is": "Causal", "offset": None, "shift": 3},
        {"is": "Causal", "offset": "3"},
        {"is": "Causal", "offset": 1e300},
        {"is": "Causal", "offset": True},
        {"is": "Causal", "offset": 1 << 50},
        {"is": "Padding", "lengths": {"tensor": "held/0"}, "side": "above"},
        {"is": "Not", "inner": {"is": "Dot", "scale": None, "softcap": None}},
        {"is": ["Causal"]},
        {"is": "Given", "table": {"tensor": "layers/0/q"}},
        {"is": "Dense", "table": {"tensor": "held/0"}},
        {"tensor": "held/0"},
        None,
        3,
        "Causal",
        [],
        {},
    ],
)
def test_only_regards_own_values_are_made(form: Any) -> None:
    def tensor(name: str) -> Tensor:
        return torch.zeros(2)

    with pytest.raises(ValueError, match=r"where a Mask belongs|no value is called|has other|may not"):
        from_json(form, Mask, tensor)


def test_every_value_of_regard_has_a_form() -> None:
    wordless = {"Where", "Custom", "Mask", "Bias", "ByDistance", "Score", "Normalizer"}

    def below(kind: type[Value]) -> set[type[Value]]:
        return {kind}.union(*(below(one) for one in kind.__subclasses__()))

    kinds = below(Value)
    modules = {f"regard.spec.{name}" for name in ("masks", "biases", "scores", "normalizers")}
    modules |= {"regard.cache.positions", "regard.lowering.tiles"}
    parts = {one.__name__ for one in kinds if one.__module__ in modules}
    names = {name for name in parts if not name.startswith("_")}
    assert names - wordless == {one.__name__ for one in FIELDS}


def test_values_within_values_end() -> None:
    form: Any = {"is": "Causal", "offset": None}
    for _ in range(100):
        form = {"is": "Not", "inner": form}
    with pytest.raises(ValueError, match="no value is called"):
        from_json(form, Mask, lambda name: torch.zeros(1))
    for _ in range(60):
        form = form["inner"]
    assert isinstance(from_json(form, Mask, lambda name: torch.zeros(1)), Not)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, Path]:
    path = tmp_path_factory.mktemp("fuzz") / "run"
    return made(path), path.with_name("spoilt")


def survives(path: Path, data: bytes) -> None:
    """Opening and asking works, or says what is wrong."""
    path.write_bytes(data)
    with contextlib.suppress(RegardError):
        asked(path)


FUZZ = settings(
    max_examples=50,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@FUZZ
@given(seed=st.integers(0, 2**32), count=st.integers(1, 20), anywhere=st.booleans())
def test_flipped_bytes(whole: tuple[bytes, Path], seed: int, count: int, anywhere: bool) -> None:
    data, path = bytearray(whole[0]), whole[1]
    draw = random.Random(seed)
    used = len(bytes(data[: 8 + int.from_bytes(data[:8], "little")]).rstrip())
    for _ in range(count):
        data[draw.randrange(len(data) if anywhere else used)] = draw.randrange(256)
    survives(path, bytes(data))


@FUZZ
@given(share=st.floats(0, 1))
def test_truncated_anywhere(whole: tuple[bytes, Path], share: float) -> None:
    data, path = whole
    kept = int(share * len(data))
    path.write_bytes(data[:kept])
    if kept < len(data):
        with pytest.raises(RegardError):
            Recording.open(path)
    else:
        assert len(asked(path)) == 4 + 6 * 4 + 5 * 2


def leaves(tree: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [at]
    if isinstance(tree, dict | list):
        for key in tree if isinstance(tree, dict) else range(len(tree)):
            found += leaves(tree[key], (*at, key))
    return found


ODD = st.sampled_from(
    [
        None,
        True,
        -1,
        0,
        1,
        2,
        3,
        29,
        2**31,
        2**63,
        10**30,
        1e308,
        -0.5,
        "",
        "x",
        "held/0",
        "held/3",
        [],
        [1],
        {},
        {"is": "Causal", "offset": -7},
        {"is": "Not", "inner": {"is": "Everything"}},
        {"tensor": "held/1"},
        {"tensor": "held/5"},
        [1 << 40, 0, 1 << 40],
        "layers/0/q",
        {"is": "Nothing"},
        "F16",
        "I64",
        "U8",
    ]
)


@FUZZ
@given(odd=ODD, where=st.floats(0, 1, exclude_max=True), inner=st.booleans(), gone=st.booleans())
def test_edited_headers(whole: tuple[bytes, Path], odd: Any, where: float, inner: bool, gone: bool) -> None:
    data, path = whole
    header = header_of(data)
    about = json.loads(header["__metadata__"]["about"])
    tree = about if inner else header
    places = leaves(tree)[1:]
    *way, last = places[int(where * len(places))]
    for key in way:
        tree = tree[key]
    if gone:
        del tree[last]
    else:
        tree[last] = odd
    told = header.get("__metadata__")
    if inner and isinstance(told, dict):
        told["about"] = json.dumps(about)
    survives(path, with_header(data, header))


def test_the_names_of_dtypes_are_those_of_the_file() -> None:
    assert set(DTYPES.values()) <= set(container.DTYPES.values())
