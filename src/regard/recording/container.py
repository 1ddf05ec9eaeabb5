"""The file of a recording: safetensors, written tensor by tensor, and mapped to be read.

A header of JSON says where each tensor's bytes are, and the bytes follow (safetensors, 2022). The header
comes first but is known last: bytes are reserved for it, and filled up with spaces. Nothing in the file is ever
run or unpickled.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch
from torch import Tensor

from regard.errors import OptionError
from regard.recording.text import no_constant, shown
from regard.system import file_formats
from regard.system.atomic_files import AtomicFile

FORMAT = "regard.recording"
"""The name of the format in the header, and its newest version that is read here."""

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}

ALIGN = 64
"""Tensors begin at multiples of so many bytes, so that they can be mapped."""

_PIECE = 16 << 20  # bytes that are converted and written at a time
_MOST_HEADER = 100_000_000  # the limit of safetensors itself
_MOST_DIMS = 8
_MAP_NORESERVE: int = getattr(mmap, "MAP_NORESERVE", 0x4000)  # Python names it from 3.13 on; this is Linux's number


class TensorFileWriter(AtomicFile):
    """A recording's file while it is written.

    Args:
        path: Where the file will be; what is there stays until the new one is complete.
        room: Bytes left for the header. Where they do not suffice, what follows is moved in the end.
    """

    def __init__(self, path: Path, room: int) -> None:
        super().__init__(path)
        self._entries: dict[str, Any] = {}
        self._shared: dict[bytes, str] = {}
        self._digest = hashlib.blake2b(digest_size=16)
        self._start, self._end = _aligned(room + 8), 0
        self.file.seek(self._start)

    @property
    def size(self) -> int:
        """Bytes so far, with the room for the header."""
        return self._start + self._end

    def put(self, name: str, tensor: Tensor, dtype: torch.dtype | None = None) -> None:
        """Write a tensor, a piece at a time, in another dtype where one is given."""
        tensor = tensor.detach()
        dtype = tensor.dtype if dtype is None else dtype
        padding = -self._end % ALIGN
        if padding:  # safetensors allows no holes
            self._enter(f"padding/{self._end}", torch.uint8, (padding,), padding)
            self._write(bytes(padding))
        size = tensor.numel() * dtype.itemsize
        self._enter(name, dtype, tuple(tensor.shape), size)
        for piece in _pieces(tensor):
            plain = piece.to("cpu", dtype).resolve_neg().contiguous().reshape(-1)
            self._write(plain.view(torch.uint8).numpy().data)

    def put_shared(self, tensor: Tensor, dtype: torch.dtype | None = None) -> str:
        """Write a tensor that several layers may share once, and return its name."""
        header = f"{tensor.dtype}{tuple(tensor.shape)}{dtype}"
        digest = hashlib.blake2b(header.encode(), digest_size=32)
        for piece in _pieces(tensor.detach()):
            plain = piece.cpu().resolve_neg().contiguous().reshape(-1)
            digest.update(plain.view(torch.uint8).numpy().data)
        key = digest.digest()
        if key not in self._shared:
            self._shared[key] = f"held/{len(self._shared)}"
            self.put(self._shared[key], tensor, dtype)
        return self._shared[key]

    def finish(self, about: dict[str, Any], metadata: dict[str, str]) -> None:
        """Write the header and put the file in its place."""
        description = json.dumps(about, ensure_ascii=True, allow_nan=False)
        self._digest.update(description.encode())
        own = {
            "format": FORMAT,
            "version": str(file_formats.RECORDING),
            **metadata,
            "about": description,
            "digest": self._digest.hexdigest(),
        }
        header = json.dumps({"__metadata__": own, **self._entries}).encode()
        start = max(self._start, _aligned(8 + len(header)))
        self._shift(start)
        self.file.seek(0)
        self.file.write((start - 8).to_bytes(8, "little") + header.ljust(start - 8))
        self.file.flush()
        os.fsync(self.file.fileno())
        self.commit()

    def _enter(self, name: str, dtype: torch.dtype, shape: tuple[int, ...], size: int) -> None:
        offsets = [self._end, self._end + size]
        self._entries[name] = {"dtype": _NAMES[dtype], "shape": shape, "data_offsets": offsets}

    def _write(self, data: bytes | memoryview) -> None:
        self.file.write(data)
        self._digest.update(data)
        self._end += len(data)

    def _shift(self, start: int) -> None:
        """Move the tensors' bytes further back, where the header needs it."""
        if start == self._start:
            return
        for stop in range(self._end, 0, -_PIECE):
            first = max(stop - _PIECE, 0)
            self.file.seek(self._start + first)
            data = self.file.read(stop - first)
            self.file.seek(start + first)
            self.file.write(data)


def _aligned(size: int) -> int:
    return -(-size // ALIGN) * ALIGN


def _pieces(tensor: Tensor) -> Iterator[Tensor]:
    """A tensor in parts of some MiB, in the order of its numbers."""
    size = tensor.numel() * max(tensor.element_size(), 4)
    if size <= _PIECE or not tensor.ndim:
        yield tensor
    elif len(tensor) == 1:
        yield from _pieces(tensor[0])
    else:
        for part in tensor.split(max(_PIECE * len(tensor) // size, 1)):
            yield from _pieces(part)


class TensorEntry(NamedTuple):
    """A tensor in the header: its bytes are `start` to `stop` of the file."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    stop: int


class TensorFileReader:
    """A complete file, mapped: opening it reads the header alone.

    Raises:
        OptionError: the file is not there, is no safetensors file, is something else than a recording, is
            of a newer format, or is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                self.size = os.fstat(file.fileno()).st_size
                header = self._header(file)
                self.metadata = _metadata(path, header)
                data = 8 + self._length
                self.entries = {
                    name: self._entry(name, entry, data)
                    for name, entry in header.items()
                    if name != "__metadata__" and not name.startswith("padding/")
                }
                self._bytes = _mapped(file, self.size)
        except FileNotFoundError:
            raise OptionError(
                "Recording.open", f"{path}, which is not there", "a file that regard.record wrote", "Check the path."
            ) from None
        except IsADirectoryError:
            raise OptionError(
                "Recording.open", f"{path}, a folder", "a file that regard.record wrote", "Name a file in it."
            ) from None

    def tensor(self, name: str) -> Tensor:
        """A tensor mapped from the file: what is written to it stays in memory."""
        entry = self.entries.get(name)
        if entry is None:
            raise damaged(self.path, f"there is no tensor {name!r}")
        return self._bytes[entry.start : entry.stop].view(entry.dtype).reshape(entry.shape)

    def _header(self, file: IO[bytes]) -> dict[str, Any]:
        begin = file.read(9)
        self._length = int.from_bytes(begin[:8], "little")
        if len(begin) < 9 or begin[8:] != b"{" or self._length > _MOST_HEADER:
            raise _foreign(self.path, "no safetensors file")
        if self._length + 8 > self.size:
            raise _cut(self.path, f"{self._length + 8:,} bytes of header", self.size)
        text = begin[8:] + file.read(self._length - 1)
        try:
            header: Any = json.loads(text.decode(), parse_constant=no_constant)
        except (ValueError, RecursionError) as error:
            raise damaged(self.path, f"its header cannot be read: {_reason(error)}") from None
        if not isinstance(header, dict):
            raise _foreign(self.path, "no safetensors file")
        return header

    def _entry(self, name: str, entry: Any, data: int) -> TensorEntry:
        try:
            dtype, shape = DTYPES[entry["dtype"]], entry["shape"]
            start, stop = entry["data_offsets"]
        except (KeyError, TypeError, ValueError):
            raise damaged(self.path, f"its header does not say what {name!r} is") from None
        whole = isinstance(shape, list) and len(shape) <= _MOST_DIMS
        if not whole or not all(type(n) is int and n >= 0 for n in (*shape, start, stop)):
            raise damaged(self.path, f"{name!r} has no shape or no place")
        if math.prod(shape) * dtype.itemsize != stop - start or (data + start) % dtype.itemsize:
            raise damaged(self.path, f"the shape of {name!r} does not fit its place")
        if data + stop > self.size:
            raise _cut(self.path, f"at least {data + stop:,} bytes", self.size)
        return TensorEntry(dtype, tuple(shape), data + start, data + stop)


def _metadata(path: Path, header: dict[str, Any]) -> dict[str, str]:
    """What the file says of itself, where it is a recording of a format that is read here."""
    own = header.get("__metadata__")
    if not isinstance(own, dict) or own.get("format") != FORMAT:
        raise _foreign(path, "a safetensors file of something else")
    if not all(isinstance(value, str) for value in own.values()):
        raise damaged(path, "its header does not say what it is")
    version = own.get("version", "")
    if not version.isdecimal() or len(version) > 9:
        raise damaged(path, f"its format is {version[:20]!r}")
    if int(version) > file_formats.RECORDING:
        by = shown(own.get("regard", "of a newer version")[:40])
        raise OptionError(
            "Recording.open",
            f"{path}, of format {version}, which regard {by} wrote",
            f"recordings of format {file_formats.RECORDING} or older",
            "Update regard, or record again with this version.",
        )
    return own


def _mapped(file: IO[bytes], size: int) -> Tensor:
    """All bytes of a file, read where they are accessed, and copied where they are written to."""
    if hasattr(mmap, "MAP_PRIVATE"):
        # Without a reserve for copies that are never made, of files larger than the memory.
        unreserved = _MAP_NORESERVE if os.uname().sysname == "Linux" else 0
        protection = mmap.PROT_READ | mmap.PROT_WRITE
        mapped = mmap.mmap(file.fileno(), size, mmap.MAP_PRIVATE | unreserved, protection)
    else:
        mapped = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY)
    return torch.frombuffer(mapped, dtype=torch.uint8)


def damaged(path: Path, how: str) -> OptionError:
    """The error for a file that was a recording once."""
    return OptionError(
        "Recording.open",
        f"{path}, a recording that is damaged: {how}",
        "a file as regard.record wrote it",
        "Copy it anew, or record again.",
    )


def _cut(path: Path, needed: str, size: int) -> OptionError:
    return OptionError(
        "Recording.open",
        f"{path}, which is cut off: it has {size:,} bytes of {needed}",
        "a whole file",
        "Copy it anew, or record again.",
    )


def _foreign(path: Path, what: str) -> OptionError:
    return OptionError(
        "Recording.open",
        f"{path}, {what}",
        "a file that regard.record wrote",
        "Make one: regard record FILE -o run.safetensors.",
    )


def _reason(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:120]
