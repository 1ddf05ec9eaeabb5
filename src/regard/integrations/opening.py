"""From the name or the path of a model to one that can be recorded over a text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from regard import models
from regard.errors import OptionError
from regard.integrations.pretrained import Pretrained, open_pretrained
from regard.integrations.tokenized_text import TokenizedText, tokenize, tokenize_first
from regard.models.model import build
from regard.models.tokenizer import BytePairTokenizer
from regard.nn import Transformer

CHECKPOINT = "checkpoint.pt"


@runtime_checkable
class TextModel(Protocol):
    """A model that reads texts, with its tokenizer."""

    @property
    def name(self) -> str: ...

    @property
    def model(self) -> Any:
        """The module that runs."""
        ...

    @property
    def positions(self) -> int | None:
        """How many tokens it can read; None where nothing says so."""
        ...

    def tokenize(self, text: str, first: int | None = None) -> TokenizedText:
        """A text as the model reads it, or the first so many tokens of it."""
        ...

    def inputs(self, tokens: TokenizedText) -> Tensor | dict[str, Tensor]:
        """What the module is called with to read these tokens, as `regard.record` takes it."""
        ...


@dataclass(frozen=True)
class RegardTextModel:
    """A model of the embedded one's architecture."""

    name: str
    model: Transformer
    tokenizer: BytePairTokenizer

    @property
    def positions(self) -> int | None:
        return None

    def tokenize(self, text: str, first: int | None = None) -> TokenizedText:
        return self.tokenizer.encode_file(text, first)

    def inputs(self, tokens: TokenizedText) -> Tensor:
        return torch.tensor([tokens.ids])


@dataclass(frozen=True)
class TransformersTextModel:
    """A model of transformers: a decoder, an encoder, or the encoder of a model that has both."""

    name: str
    model: Any
    tokenizer: Any
    positions: int | None

    @classmethod
    def of(cls, pretrained: Pretrained) -> TransformersTextModel:
        """The part of a model that reads."""
        model, name = pretrained.model, pretrained.name
        if getattr(model.config, "is_encoder_decoder", False):
            model, name = model.get_encoder(), f"{name}, its encoder"
        return cls(name, model, pretrained.tokenizer, pretrained.positions)

    def tokenize(self, text: str, first: int | None = None) -> TokenizedText:
        return tokenize(self.tokenizer, text) if first is None else tokenize_first(self.tokenizer, text, first)

    def inputs(self, tokens: TokenizedText) -> dict[str, Tensor]:
        return {"input_ids": torch.tensor([tokens.ids])}


def open_model(given: str = models.EMBEDDED) -> TextModel:
    """A model by its name or its path.

    That is the embedded one by its name, one that `python -m experiments.train` wrote by its folder (also of a
    run that has not ended yet: its folder has a checkpoint), or one of transformers by its folder or its name.

    Raises:
        OptionError: there is no such model, or its files do not fit together.
    """
    if given == models.EMBEDDED:
        embedded = models.load()
        return RegardTextModel(given, embedded.model, embedded.tokenizer)
    path = Path(given)
    folder = path if path.is_dir() else path.parent
    if not path.exists() or (path.is_dir() and (path / "config.json").is_file()):
        return TransformersTextModel.of(open_pretrained(given))
    files = models.TOKENIZER, models.WEIGHTS, CHECKPOINT
    tokenizer, weights, checkpoint = (folder / name for name in files)
    if not tokenizer.is_file() or not (weights.is_file() or checkpoint.is_file()):
        raise OptionError(
            "--model",
            given,
            f"a folder with {files[0]} and {files[1]} (or {files[2]}), or with config.json, of a model of transformers",
            "Give the folder that experiments.train or save_pretrained wrote.",
        )
    unfinished = path == checkpoint or not weights.is_file()
    try:
        if unfinished:
            return _open_checkpoint(checkpoint, BytePairTokenizer.open(tokenizer))
        embedded = models.load(folder)
    except Exception as error:  # whatever torch, tokenizers and safetensors raise for damaged files
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise OptionError(
            "--model",
            f"{given} ({reason})",
            "files of this version's model",
            "Train again, or look with the version that wrote them.",
        ) from error
    return RegardTextModel(folder.resolve().name, embedded.model, embedded.tokenizer)


def _open_checkpoint(path: Path, tokenizer: BytePairTokenizer) -> RegardTextModel:
    saved: Any = torch.load(path, map_location="cpu", weights_only=True)
    model = build(tokenizer.size)
    model.load_state_dict(saved["model"])
    return RegardTextModel(f"{path.resolve().parent.name}, step {saved['step']}", model.eval(), tokenizer)
