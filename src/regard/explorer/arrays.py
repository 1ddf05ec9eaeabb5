"""Queries and keys that somebody computed elsewhere, in an .npz or .safetensors file, as a recording.

Nothing in such a file is ever unpickled, and no more is read than it says and has.
"""

from __future__ import annotations

import json
import math
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from regard.errors import OptionError, RegardError
from regard.recording import Recording
from regard.recording.text import no_constant
from regard.spec.masks import Causal, Mask, as_mask
from regard.spec.scores import Dot

NAMES = "q", "k", "v", "mask", "bias", "tokens"
"""What a file may hold; q and k it must."""

MOST_BYTES = 4 << 30
"""Of all arrays of a file, unpacked."""

_FLOATS = torch.float16, torch.bfloat16, torch.float32, torch.float64
_MOST_DIMS = 4


@dataclass(frozen=True)
class Arrays:
    """What a file holds, as `Recording.of` takes it."""

    q: Tensor
    k: Tensor
    v: Tensor | None
    mask: Tensor | None
    bias: Tensor | None
    tokens: list[str] | None


def holds(path: Path) -> bool:
    """Whether a file is one of arrays, as far as its name and its header tell."""
    if path.suffix == ".npz":
        return True
    if path.suffix != ".safetensors":
        return False
    try:
        with safe_open(str(path), framework="pt") as file:
            return {"q", "k"} <= set(file.keys())
    except (SafetensorError, OSError):
        return False


def recorded(path: Path, to: Path, name: str, causal: bool = False, scale: float | None = None) -> Recording:
    """A recording of the arrays of a file, each query with each key: one layer.

    Args:
        path: An .npz or .safetensors file with q and k, and v, mask, bias and tokens if there are some. q, k
            and v are (n, d), (h, n, d) or (b, h, n, d), fewer key heads are grouped; a mask is True where a
            query may see a key, a bias is added to scores. Tokens are an array of words, or a list in JSON.
        to: Where the recording will be.
        name: What the file is called.
        causal: Whether queries see no later keys.
        scale: What q · k is multiplied with; 1/√d by default.

    Raises:
        RegardError: the file cannot be read, holds something else, or its arrays do not fit together.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "arrays.npz"
    ...     np.savez(path, q=np.random.randn(4, 50, 8), k=np.random.randn(2, 50, 8))
    ...     recorded(path, Path(folder) / "run.safetensors", "mine", causal=True).layer(0)
    RecordedLayer(0, 'layer 0', 1 × 4 heads of 8, 50 × 50)
    """
    if scale is not None and not math.isfinite(scale):
        raise OptionError("scale", scale, "a finite number", "Leave it out for 1/√d.")
    found = read(path, name)
    mask: Mask | None = None if found.mask is None else as_mask(found.mask)
    if causal:
        mask = Causal() if mask is None else Causal() & mask
    return Recording.of(
        found.q,
        found.k,
        found.v,
        to=to,
        mask=mask,
        bias=found.bias,
        score=None if scale is None else Dot(scale=scale),
        name=name,
        tokens=found.tokens,
    )


def read(path: Path, name: str) -> Arrays:
    """The arrays of a file; errors call it by its `name`."""
    try:
        with path.open("rb") as file:
            packed = file.read(4) in (b"PK\x03\x04", b"PK\x05\x06")
        found, tokens = _npz(path, name) if packed else _safetensors(path, name)
    except RegardError:
        raise
    except (
        OSError,
        ValueError,
        EOFError,
        RuntimeError,
        zipfile.BadZipFile,
        zlib.error,
        SafetensorError,
        SyntaxError,
        TokenError,
    ) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0][:120]
        raise _bad(
            name,
            f"which cannot be read ({reason})",
            "an .npz or a .safetensors file",
            "Write one: numpy.savez(path, q=q, k=k).",
        ) from error
    parts: dict[str, Tensor | None] = dict.fromkeys(NAMES[:-1])
    for part, tensor in found.items():
        if tensor.dtype not in ((torch.bool,) if part == "mask" else _FLOATS):
            said = str(tensor.dtype).removeprefix("torch.")
            raise _bad(name, f"whose {part} is {said}", "bool for mask, floats for all else", "Convert it.")
        least = 2 if part in ("q", "k", "v") else 0
        if not least <= tensor.ndim <= _MOST_DIMS:
            shape = "×".join(map(str, tensor.shape))
            raise _bad(name, f"whose {part} is {shape}", "(n, d), (heads, n, d) or (batch, heads, n, d)", "Reshape it.")
        whole = (1,) * (_MOST_DIMS - tensor.ndim) + tuple(tensor.shape)
        parts[part] = tensor.reshape(whole) if least else tensor
    q, k = parts["q"], parts["k"]
    if q is None or k is None:
        raise _bad(
            name,
            f"with {', '.join(found) or 'nothing'}",
            "q and k, at least",
            "Name them so: numpy.savez(path, q=q, k=k).",
        )
    return Arrays(q, k, parts["v"], parts["mask"], parts["bias"], tokens)


def _npz(path: Path, name: str) -> tuple[dict[str, Tensor], list[str] | None]:
    with zipfile.ZipFile(path) as archive:
        members = {one.filename.removesuffix(".npy"): one for one in archive.infolist()}
        _known(name, members, sum(one.file_size for one in members.values()))
        arrays: dict[str, np.ndarray[Any, Any]] = {}
        for part, member in members.items():
            with archive.open(member) as file:
                _check(name, part, file, member.file_size)
            with archive.open(member) as file:
                found = np.lib.format.read_array(file, allow_pickle=False)
                arrays[part] = found.astype(found.dtype.newbyteorder("="), copy=False)
    words = arrays.pop("tokens", None)
    tokens = None
    if words is not None:
        if words.dtype.kind != "U" or words.ndim > 1:
            raise _bad(
                name,
                f"whose tokens are {words.dtype}",
                "an array of words, or a list in JSON",
                "Write tokens=numpy.array(list_of_strings).",
            )
        tokens = _list(name, str(words)) if words.ndim == 0 else [str(word) for word in words]
    made: dict[str, Tensor] = {}
    for part, array in arrays.items():
        if array.dtype.kind not in "bfiu":
            raise _bad(name, f"whose {part} is {array.dtype}", "bool for mask, floats for all else", "Convert it.")
        made[part] = torch.from_numpy(np.ascontiguousarray(array).reshape(array.shape))
    return made, tokens


def _check(name: str, part: str, file: Any, size: int) -> None:
    """That an array is as large as it says, before room is made for it, and holds no objects."""
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"an array of format {version}")
    reads = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    shape, _, dtype = reads[version](file)
    if dtype.hasobject:
        raise _bad(
            name,
            f"whose {part} holds Python objects",
            "numbers",
            "Nothing is unpickled: convert it to an array of numbers, or of words.",
        )
    if file.tell() + math.prod(shape) * dtype.itemsize != size:
        raise ValueError(f"{part} is not as large as it says")


def _safetensors(path: Path, name: str) -> tuple[dict[str, Tensor], list[str] | None]:
    with safe_open(str(path), framework="pt") as file:
        names = list(file.keys())
        _known(name, names, path.stat().st_size)
        told = (file.metadata() or {}).get("tokens")
        made = {part: file.get_tensor(part) for part in names}
    if "tokens" in made:
        raise _bad(
            name,
            "whose tokens are numbers",
            "a list in JSON, in the file's metadata",
            'Write save_file(arrays, path, {"tokens": json.dumps(words)}).',
        )
    return made, None if told is None else _list(name, told)


def _known(name: str, parts: Iterable[str], size: int) -> None:
    other = sorted(set(parts) - set(NAMES))
    if other:
        raise _bad(
            name,
            f"with {', '.join(map(repr, other))[:100]}",
            ", ".join(NAMES),
            "Name the arrays so, and leave others out.",
        )
    if size > MOST_BYTES:
        raise _bad(
            name, f"of {size:,} bytes unpacked", f"{MOST_BYTES:,} bytes", "Give fewer queries or heads, or float16."
        )


def _list(name: str, told: str) -> list[str]:
    try:
        found: Any = json.loads(told, parse_constant=no_constant)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, list) or not all(isinstance(word, str) for word in found):
        raise _bad(
            name,
            "whose tokens are no list of words in JSON",
            'such as ["the", " cat"]',
            "Write json.dumps(list_of_strings).",
        )
    return found


def _bad(name: str, what: str, allowed: str, remedy: str) -> OptionError:
    return OptionError("arrays", f"{name}, {what}", allowed, remedy)
