"""From a name or a path to a model and its tokens."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from regard import models
from regard.errors import OptionError
from regard.models.model import build
from regard.models.tokens import Tokens
from regard.nn import Transformer

EMBEDDED = "python"
CHECKPOINT = "checkpoint.pt"


@dataclass(frozen=True)
class Opened:
    """A model that is ready to look with."""

    name: str
    model: Transformer
    tokens: Tokens


def open_model(given: str = EMBEDDED) -> Opened:
    """The embedded model by its name, or one that `python -m regard.models.train` wrote, by its folder.

    A run that has not ended yet can be looked at too: its folder holds a checkpoint.

    Raises:
        OptionError: there is no such model, or its files do not fit together.
    """
    if given == EMBEDDED:
        embedded = models.load()
        return Opened(EMBEDDED, embedded.model, embedded.tokens)
    path = Path(given)
    if not path.exists():
        raise OptionError("--model", given, "'python', or the path of what regard.models.train wrote",
                          "Hugging Face models come in a later version.")  # fmt: skip
    folder = path if path.is_dir() else path.parent
    files = models.TOKENIZER, models.WEIGHTS, CHECKPOINT
    spelling, finished, running = (folder / name for name in files)
    if not spelling.is_file() or not (finished.is_file() or running.is_file()):
        raise OptionError("--model", given, f"a folder with {files[0]} and {files[1]} (or {files[2]})",
                          "Give the folder that `python -m regard.models.train --out` wrote.")  # fmt: skip
    unfinished = path == running or not finished.is_file()
    try:
        if unfinished:
            return _checkpoint(running, Tokens.read(spelling))
        embedded = models.load(folder)
    except Exception as error:  # whatever torch, tokenizers and safetensors raise for damaged files
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise OptionError("--model", f"{given} ({reason})", "files of this version's model",
                          "Train again, or look with the version that wrote them.") from error  # fmt: skip
    return Opened(folder.resolve().name, embedded.model, embedded.tokens)


def _checkpoint(path: Path, tokens: Tokens) -> Opened:
    saved: Any = torch.load(path, map_location="cpu", weights_only=True)
    model = build(tokens.size)
    model.load_state_dict(saved["model"])
    return Opened(f"{path.resolve().parent.name}, step {saved['step']}", model.eval(), tokens)
