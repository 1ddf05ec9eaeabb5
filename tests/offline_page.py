"""An offline page taken apart, and its weights by the formula in float64: what its arrays mean."""

from __future__ import annotations

import base64
import gzip
import html
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray

CODE = "".join(
    f"def read_{name}(path, {name}):\n    with open(path) as file:\n"
    f"        lines = [line.strip() for line in file if {name} in line]\n"
    f"    return sorted(lines, key=len)[:{i + 3}]\n\n\n"
    for i, name in enumerate("prefix suffix word digit colour river bank money letter".split() * 4)
)
"""A text for pages: some 6,000 characters, always the same."""


@dataclass(frozen=True)
class Parsed:
    """What a page says of itself, and its arrays by name."""

    about: dict[str, Any]
    data: dict[str, str]

    @classmethod
    def of(cls, path: Path) -> Parsed:
        text = path.read_text("utf-8")
        found = re.findall(r'<script type="([^"]+)" id="([^"]+)">(.*?)</script>', text, re.S)
        by_id = {html.unescape(name): body for _, name, body in found}
        data = {name.removeprefix("regard-data/"): body for name, body in by_id.items()}
        return cls(json.loads(by_id["regard-about"]), data)

    @property
    def run(self) -> dict[str, Any]:
        """What it says of its first recording."""
        return self.about["runs"][self.about["recordings"][0]["id"]]

    def array(self, layer: int, part: str) -> ndarray | None:
        """An array of a layer of the first recording."""
        name = f"{self.about['recordings'][0]['id']}/{layer}/{part}"
        told = self.about["arrays"].get(name)
        if told is None:
            return None
        data = base64.b64decode(self.data[name])
        data = gzip.decompress(data) if told["gzip"] else data
        if told["dtype"] == "bfloat16":
            wide = np.frombuffer(data, "<u2").astype(np.uint32) << 16
            return wide.view(np.float32).reshape(told["shape"])
        return np.frombuffer(data, np.dtype(told["dtype"]).newbyteorder("<")).reshape(told["shape"])

    def weights(self, layer: int, head: int) -> ndarray:
        """A head's weights (q, k): ``exp(softcap(q·k · scale) + table + pairs − lse)`` where allowed."""
        facts = next(one for one in self.run["layers"] if one["index"] == layer)
        at = facts["kept"].index(head)

        def own(part: str) -> ndarray | None:
            found = self.array(layer, part)
            return None if found is None else found[at if len(found) > 1 else 0]

        q, k = own("q"), self.array(layer, "k")
        assert q is not None
        assert k is not None
        scores = q.astype(np.float64) @ k[facts["group"][at]].astype(np.float64).T * facts["scale"]
        if facts["softcap"] is not None:
            scores = facts["softcap"] * np.tanh(scores / facts["softcap"])
        rows, cols = (np.arange(n) for n in scores.shape)
        table, pairs, lse = own("table"), own("pairs"), own("lse")
        assert lse is not None
        if table is not None:
            scores = scores + table[rows[:, None] - cols + len(cols) - 1]
        if pairs is not None:
            scores = scores + pairs
        allowed = self._spans(own("runs"), scores.shape) & self._tiles(
            own("kinds"), self.array(layer, "words"), scores.shape
        )
        return np.where(allowed, np.exp(scores - lse[:, None].astype(np.float64)), 0)

    def _spans(self, runs: ndarray | None, shape: tuple[int, ...]) -> ndarray:
        if runs is None:
            return np.ones(shape, bool)
        keys = np.arange(shape[1])
        first, last = runs[..., 0, None], runs[..., 1, None]
        return np.any((first <= keys) & (keys < last), 1, keepdims=False)

    def _tiles(self, kinds: ndarray | None, words: ndarray | None, shape: tuple[int, ...]) -> ndarray:
        allowed = np.ones(shape, bool)
        if kinds is None:
            return allowed
        for (row, col), kind in np.ndenumerate(kinds):
            tile = allowed[64 * row : 64 * row + 64, 64 * col : 64 * col + 64]
            if kind == 0:
                tile[:] = False
            elif kind > 1:
                assert words is not None
                bits = (words[kind - 2] >> np.arange(64, dtype=np.uint64)[:, None]) & np.uint64(1)
                tile[:] = bits[: tile.shape[0], : tile.shape[1]] == 1
        return allowed
