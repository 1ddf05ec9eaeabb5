"""A recording of queries and keys that were computed elsewhere, from an .npz or .safetensors file.

Nothing in such a file is unpickled, and sizes are checked before memory is allocated.
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
from regard.recording.reader import Recording
from regard.recording.text import no_constant
from regard.spec.masks import Causal, Mask, as_mask
from regard.spec.scores import Dot

NAMES = "q", "k", "v", "mask", "bias", "tokens"
"""Arrays that a file may contain; q and k are required."""

MOST_BYTES = 4 << 30
"""Of all arrays of a file, uncompressed."""

_FLOATS = torch.float16, torch.bfloat16, torch.float32, torch.float64
_MOST_DIMS = 4


@dataclass(frozen=True)
class AttentionArrays:
    """The arrays of a file, as `Recording.of` takes them."""

    q: Tensor
    k: Tensor
    v: Tensor | None
    mask: Tensor | None
    bias: Tensor | None
    tokens: list[str] | None


def is_array_file(path: Path) -> bool:
    """Whether a file contains arrays, judged by its name and its header."""
    if path.suffix == ".npz":
        return True
    if path.suffix != ".safetensors":
        return False
    try:
        with safe_open(str(path), framework="pt") as file:
            return {"q", "k"} <= set(file.keys())
    except (SafetensorError, OSError):
        return False


def record_arrays(path: Path, to: Path, name: str, causal: bool = False, scale: float | None = None) -> Recording:
    """Write a recording of one layer from the arrays of a file.

    Args:
        path: An .npz or .safetensors file with q and k, and v, mask, bias and tokens if there are some. q, k
            and v are (n, d), (h, n, d) or (b, h, n, d), fewer key heads are grouped; a mask is True where a
            query may see a key, a bias is added to scores. Tokens are an array of strings, or a JSON list.
        to: The path of the recording.
        name: The file's name in the recording and in errors.
        causal: Whether keys after the query are masked.
        scale: Factor of q · k; 1/√d by default.

    Raises:
        RegardError: the file cannot be read, has other contents, or its arrays do not fit together.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "arrays.npz"
    ...     np.savez(path, q=np.random.randn(4, 50, 8), k=np.random.randn(2, 50, 8))
    ...     record_arrays(path, Path(folder) / "run.safetensors", "mine", causal=True).layer(0)
    RecordedLayer(0, 'layer 0', 1 × 4 heads of 8, 50 × 50)
    """
    if scale is not None and not math.isfinite(scale):
        raise OptionError("scale", scale, "a finite number", "Leave it out for 1/√d.")
    arrays = read_arrays(path, name)
    mask: Mask | None = None if arrays.mask is None else as_mask(arrays.mask)
    if causal:
        mask = Causal() if mask is None else Causal() & mask
    return Recording.of(
        arrays.q,
        arrays.k,
        arrays.v,
        to=to,
        mask=mask,
        bias=arrays.bias,
        score=None if scale is None else Dot(scale=scale),
        name=name,
        tokens=arrays.tokens,
    )


def read_arrays(path: Path, name: str) -> AttentionArrays:
    """The arrays of a file; errors refer to it by `name`."""
    try:
        with path.open("rb") as file:
            zipped = file.read(4) in (b"PK\x03\x04", b"PK\x05\x06")
        arrays, tokens = _read_npz(path, name) if zipped else _read_safetensors(path, name)
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
        raise _error(
            name,
            f"which cannot be read ({reason})",
            "an .npz or a .safetensors file",
            "Write one: numpy.savez(path, q=q, k=k).",
        ) from error
    parts: dict[str, Tensor | None] = dict.fromkeys(NAMES[:-1])
    for part, tensor in arrays.items():
        if tensor.dtype not in ((torch.bool,) if part == "mask" else _FLOATS):
            dtype = str(tensor.dtype).removeprefix("torch.")
            raise _error(name, f"whose {part} is {dtype}", "bool for mask, floats for all else", "Convert it.")
        least_dims = 2 if part in ("q", "k", "v") else 0
        if not least_dims <= tensor.ndim <= _MOST_DIMS:
            shape = "×".join(map(str, tensor.shape))
            raise _error(
                name, f"whose {part} is {shape}", "(n, d), (heads, n, d) or (batch, heads, n, d)", "Reshape it."
            )
        four_dims = (1,) * (_MOST_DIMS - tensor.ndim) + tuple(tensor.shape)
        parts[part] = tensor.reshape(four_dims) if least_dims else tensor
    q, k = parts["q"], parts["k"]
    if q is None or k is None:
        raise _error(
            name,
            f"with {', '.join(arrays) or 'nothing'}",
            "q and k, at least",
            "Name them so: numpy.savez(path, q=q, k=k).",
        )
    return AttentionArrays(q, k, parts["v"], parts["mask"], parts["bias"], tokens)


def _read_npz(path: Path, name: str) -> tuple[dict[str, Tensor], list[str] | None]:
    with zipfile.ZipFile(path) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        _check_names(name, members, sum(info.file_size for info in members.values()))
        arrays: dict[str, np.ndarray[Any, Any]] = {}
        for part, member in members.items():
            with archive.open(member) as file:
                _check_header(name, part, file, member.file_size)
            with archive.open(member) as file:
                array = np.lib.format.read_array(file, allow_pickle=False)
                arrays[part] = array.astype(array.dtype.newbyteorder("="), copy=False)
    strings = arrays.pop("tokens", None)
    tokens = None
    if strings is not None:
        if strings.dtype.kind != "U" or strings.ndim > 1:
            raise _error(
                name,
                f"whose tokens are {strings.dtype}",
                "an array of words, or a list in JSON",
                "Write tokens=numpy.array(list_of_strings).",
            )
        tokens = _parse_list(name, str(strings)) if strings.ndim == 0 else [str(token) for token in strings]
    tensors: dict[str, Tensor] = {}
    for part, array in arrays.items():
        if array.dtype.kind not in "bfiu":
            raise _error(name, f"whose {part} is {array.dtype}", "bool for mask, floats for all else", "Convert it.")
        tensors[part] = torch.from_numpy(np.ascontiguousarray(array).reshape(array.shape))
    return tensors, tokens


def _check_header(name: str, part: str, file: Any, size: int) -> None:
    """Raise where an array is not as large as its header says, before it is allocated, or contains objects."""
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"an array of format {version}")
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    shape, _, dtype = readers[version](file)
    if dtype.hasobject:
        raise _error(
            name,
            f"whose {part} holds Python objects",
            "numbers",
            "Nothing is unpickled: convert it to an array of numbers, or of words.",
        )
    if file.tell() + math.prod(shape) * dtype.itemsize != size:
        raise ValueError(f"{part} is not as large as it says")


def _read_safetensors(path: Path, name: str) -> tuple[dict[str, Tensor], list[str] | None]:
    with safe_open(str(path), framework="pt") as file:
        names = list(file.keys())
        _check_names(name, names, path.stat().st_size)
        tokens = (file.metadata() or {}).get("tokens")
        tensors = {part: file.get_tensor(part) for part in names}
    if "tokens" in tensors:
        raise _error(
            name,
            "whose tokens are numbers",
            "a list in JSON, in the file's metadata",
            'Write save_file(arrays, path, {"tokens": json.dumps(list_of_strings)}).',
        )
    return tensors, None if tokens is None else _parse_list(name, tokens)


def _check_names(name: str, parts: Iterable[str], size: int) -> None:
    other = sorted(set(parts) - set(NAMES))
    if other:
        raise _error(
            name,
            f"with {', '.join(map(repr, other))[:100]}",
            ", ".join(NAMES),
            "Name the arrays so, and leave others out.",
        )
    if size > MOST_BYTES:
        raise _error(
            name, f"of {size:,} bytes unpacked", f"{MOST_BYTES:,} bytes", "Give fewer queries or heads, or float16."
        )


def _parse_list(name: str, text: str) -> list[str]:
    try:
        tokens: Any = json.loads(text, parse_constant=no_constant)
    except (ValueError, RecursionError):
        tokens = None
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        raise _error(
            name,
            "whose tokens are no list of words in JSON",
            'such as ["the", " cat"]',
            "Write json.dumps(list_of_strings).",
        )
    return tokens


def _error(name: str, what: str, allowed: str, remedy: str) -> OptionError:
    return OptionError("arrays", f"{name}, {what}", allowed, remedy)
