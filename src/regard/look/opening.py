"""From a name or a path to a model that can be looked at: its tokens, and its run over them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor

from regard import models
from regard.capture.watch import on_regard
from regard.errors import OptionError
from regard.integrations.pretrained import Pretrained, open_pretrained
from regard.look.words import START, Words, words
from regard.models.model import build
from regard.models.tokens import Tokens
from regard.nn import Transformer

EMBEDDED = "python"
CHECKPOINT = "checkpoint.pt"


@runtime_checkable
class Openable(Protocol):
    """What `study` asks of a model."""

    @property
    def name(self) -> str: ...

    @property
    def model(self) -> Any:
        """The module that runs."""
        ...

    @property
    def depth(self) -> int:
        """How many layers it has, as far as it says: for the bar of progress."""
        ...

    def words(self, text: str, first: int | None = None) -> Words:
        """A text as it reads it, or the first so many tokens of it."""
        ...

    def run(self, ids: Int[Tensor, "1 n"]) -> None:
        """Read tokens: each layer calls `regard.attention`."""
        ...


@dataclass(frozen=True)
class Opened:
    """A model of ours that is ready to look with."""

    name: str
    model: Transformer
    tokens: Tokens

    @property
    def depth(self) -> int:
        return len(self.model.blocks)

    def words(self, text: str, first: int | None = None) -> Words:
        encoded = self.tokens.encode(text)
        ids, spans = [self.tokens.start, *encoded.ids], [(0, 0), *encoded.spans]
        return words(text, ids[:first], spans[:first], {0: START}, len(ids))

    def run(self, ids: Int[Tensor, "1 n"]) -> None:
        x = self.model.embedding_norm(self.model.embedding(ids))
        for block in self.model.blocks:
            x = block(x)


@dataclass(frozen=True)
class OfTransformers:
    """A model of transformers: a decoder, an encoder, or the encoder of a model that has both."""

    name: str
    model: Any
    tokenizer: Any
    positions: int | None

    @classmethod
    def of(cls, found: Pretrained) -> OfTransformers:
        """The part of a model that reads."""
        model, name = found.model, found.name
        if getattr(model.config, "is_encoder_decoder", False):
            model, name = model.get_encoder(), f"{name}, its encoder"
        return cls(name, model, found.tokenizer, found.positions)

    @property
    def depth(self) -> int:
        return int(getattr(self.model.config, "num_hidden_layers", 1))

    def words(self, text: str, first: int | None = None) -> Words:
        # A text that says "[SEP]" means these characters.
        how = {"return_offsets_mapping": True, "split_special_tokens": True}
        read = self.tokenizer(text, verbose=False, **how)
        whole = len(read["input_ids"])
        if first is not None and whole > first:
            added = self.tokenizer.num_special_tokens_to_add()
            if first <= added:
                raise OptionError(
                    "--first",
                    first,
                    f"more than the {added} tokens that the model adds",
                    "Let it read some of the text.",
                )
            read = self.tokenizer(text, truncation=True, max_length=first, **how)
        ids, spans = read["input_ids"], [(int(a), int(b)) for a, b in read["offset_mapping"]]
        if self.positions is not None and len(ids) > self.positions:
            raise OptionError(
                "FILE",
                f"a text of {len(ids):,} tokens",
                f"up to {self.positions:,}, the positions of {self.name}",
                f"Let it read the beginning: --first {self.positions}.",
            )
        if not ids:
            raise OptionError("FILE", "a text of no tokens", "at least one", "Give it a word.")
        tokens = self.tokenizer.convert_ids_to_tokens(ids)
        names = {i: str(tokens[i]) for i, (start, stop) in enumerate(spans) if start == stop}
        return words(text, ids, _in_order(spans), names, whole)

    def run(self, ids: Int[Tensor, "1 n"]) -> None:
        writes = getattr(self.model.config, "use_cache", None) is not None
        with on_regard(self.model):
            self.model(input_ids=ids, **({"use_cache": False} if writes else {}))


def _in_order(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Spans with those of added tokens, which tokenizers say are (0, 0), where they stand in the text."""
    placed, end = list[tuple[int, int]](), 0
    for start, stop in spans:
        placed.append((start, stop) if stop > start else (end, end))
        end = max(end, stop)
    return placed


def open_model(given: str = EMBEDDED) -> Openable:
    """A model by what a person calls it.

    That is the embedded one by its name, one that `python -m experiments.train` wrote by its folder (a
    run that has not ended yet can be looked at too: its folder holds a checkpoint), or one of transformers by
    its folder or its name.

    Raises:
        OptionError: there is no such model, or its files do not fit together.
    """
    if given == EMBEDDED:
        embedded = models.load()
        return Opened(EMBEDDED, embedded.model, embedded.tokens)
    path = Path(given)
    folder = path if path.is_dir() else path.parent
    if not path.exists() or (path.is_dir() and (path / "config.json").is_file()):
        return OfTransformers.of(open_pretrained(given))
    files = models.TOKENIZER, models.WEIGHTS, CHECKPOINT
    spelling, finished, running = (folder / name for name in files)
    if not spelling.is_file() or not (finished.is_file() or running.is_file()):
        raise OptionError(
            "--model",
            given,
            f"a folder with {files[0]} and {files[1]} (or {files[2]}), or with config.json, of a model of transformers",
            "Give the folder that experiments.train or save_pretrained wrote.",
        )
    unfinished = path == running or not finished.is_file()
    try:
        if unfinished:
            return _checkpoint(running, Tokens.read(spelling))
        embedded = models.load(folder)
    except Exception as error:  # whatever torch, tokenizers and safetensors raise for damaged files
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise OptionError(
            "--model",
            f"{given} ({reason})",
            "files of this version's model",
            "Train again, or look with the version that wrote them.",
        ) from error
    return Opened(folder.resolve().name, embedded.model, embedded.tokens)


def _checkpoint(path: Path, tokens: Tokens) -> Opened:
    saved: Any = torch.load(path, map_location="cpu", weights_only=True)
    model = build(tokens.size)
    model.load_state_dict(saved["model"])
    return Opened(f"{path.resolve().parent.name}, step {saved['step']}", model.eval(), tokens)
