"""The embedded model: a small language model of Python code that ships with the package.

>>> from regard import models
>>> embedded = models.load()
>>> embedded.encode("def f(x):\\n    return x").texts
['def', ' f', '(', 'x', '):', '\\n    ', 'return', ' x']

`python -m experiments.train` makes it again from the standard library's sources, and
`python -m experiments.evaluate` prints its figures.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from regard.errors import OptionError
from regard.integrations.tokenized_text import TokenizedText
from regard.models.model import build
from regard.models.tokenizer import BytePairTokenizer
from regard.nn import Transformer

__all__ = ["EMBEDDED", "BytePairTokenizer", "Embedded", "TokenizedText", "load"]

EMBEDDED = "python"
"""The name of the embedded model."""

WEIGHTS, TOKENIZER = "weights.safetensors", "tokenizer.json"


@dataclass(frozen=True)
class Embedded:
    """A model with its tokenizer, and how it was trained (Python version, seed, steps)."""

    model: Transformer
    tokenizer: BytePairTokenizer
    facts: dict[str, str]

    def encode(self, text: str) -> TokenizedText:
        """A text as tokens, without the one that begins a file."""
        return self.tokenizer.encode(text)


def load(folder: str | Path | None = None) -> Embedded:
    """The embedded model: in evaluation mode, in float32, on the CPU.

    `folder` has another model of the same shape, as `python -m experiments.train --out` writes it.
    """
    from safetensors import safe_open

    where = Path(folder) if folder is not None else Path(__file__).parent
    if not (where / WEIGHTS).is_file() or not (where / TOKENIZER).is_file():
        raise OptionError(
            "folder",
            str(where),
            f"a folder with {WEIGHTS} and {TOKENIZER}",
            "Train one: python -m experiments.train --out FOLDER.",
        )
    tokenizer = BytePairTokenizer.open(where / TOKENIZER)
    model = build(tokenizer.size)
    with safe_open(str(where / WEIGHTS), framework="pt") as file:
        # Stored in half precision: what rounding costs is below a thousandth of a bit per byte.
        state = {name: file.get_tensor(name).to(torch.float32) for name in file.keys()}  # noqa: SIM118
        facts = dict(file.metadata() or {})
    model.load_state_dict(state)
    return Embedded(model.eval(), tokenizer, facts)
