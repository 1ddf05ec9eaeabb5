"""A model of transformers and its tokenizer, by the folder or the name that a person gives.

Nothing is downloaded: a name is looked for among what transformers has stored on this machine.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from regard.errors import OptionError


@dataclass(frozen=True, eq=False)
class Pretrained:
    """A model, ready to run, and its tokenizer."""

    name: str
    model: Any
    tokenizer: Any

    @property
    def positions(self) -> int | None:
        """How many tokens the model can read; None where nothing says so."""
        return positions_of(self.model)


def positions_of(model: Any) -> int | None:
    """How many tokens a model of transformers can read; None where nothing says so.

    RoBERTa and its kin number positions from the padding's own on, and so can read that many fewer.
    """
    most = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if not isinstance(most, int) or most <= 0:
        return None
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            padding = module.padding_idx
            return most if padding is None else most - padding - 1
    return most


def open_pretrained(given: str, kind: str = "AutoModel") -> Pretrained:
    """A model by its folder or its name, in the class `kind` of transformers, and its tokenizer.

    Raises:
        OptionError: transformers is not installed; there is no such model here, or it has no fast tokenizer.
    """
    path = Path(given)
    try:
        import transformers
    except ImportError as error:
        raise OptionError(
            "--model",
            f"{given}, but transformers is not installed",
            "models of transformers where it is",
            'Install it: pip install "regard[huggingface]"',
        ) from error
    if not path.is_dir() and (path.exists() or given.count("/") > 1 or given.startswith((".", "/"))):
        raise OptionError(
            "--model", f"{given}, which is no folder", "the folder of a model, or its name", "Check the path."
        )
    if path.is_dir() and not (path / "config.json").is_file():
        raise OptionError(
            "--model",
            f"{given}, a folder without config.json",
            "what save_pretrained or experiments.train wrote",
            "Give the folder in which config.json and the weights lie.",
        )
    how: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    with _quiet(transformers):
        try:
            model = getattr(transformers, kind).from_pretrained(given, **how).eval()
        except Exception as error:  # whatever transformers, its hub and safetensors raise
            if not path.is_dir():
                raise OptionError(
                    "--model",
                    f"{given}, which is not on this machine",
                    "a folder, or the name of a model that was downloaded before",
                    f"Nothing is downloaded here; `hf download {given}` does it. ({_reason(error)})",
                ) from error
            raise OptionError(
                "--model",
                f"{given} ({_reason(error)})",
                f"a model that transformers.{kind} opens",
                "Try from_pretrained in Python: it says more.",
            ) from error
        tokenizer = _tokenizer(transformers, given, how)
    return Pretrained(path.resolve().name if path.is_dir() else given, model, tokenizer)


def _tokenizer(transformers: Any, given: str, how: dict[str, Any]) -> Any:
    allowed = "a model with a fast tokenizer (tokenizer.json)"
    remedy = "Save one beside the model: tokenizer.save_pretrained(folder)."
    path = Path(given)
    files = "tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "tokenizer.model"
    if path.is_dir() and not any((path / name).is_file() for name in files):
        raise OptionError("--model", f"{given}, which has no tokenizer", allowed, remedy)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(given, **how)
    except Exception as error:
        given = f"{given}, whose tokenizer cannot be read ({_reason(error)})"
        raise OptionError("--model", given, allowed, remedy) from error
    if not tokenizer.is_fast:
        given = f"{given}, whose tokenizer does not tell which characters a token covers"
        raise OptionError("--model", given, allowed, remedy)
    return tokenizer


def _reason(error: Exception) -> str:
    said = (str(error).strip() or type(error).__name__).splitlines()[0]
    return said if len(said) <= 120 else said[:119] + "…"


@contextlib.contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Without bars and advice on standard error; what goes wrong is raised all the same."""
    log = transformers.utils.logging
    verbosity, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(verbosity)
        if bars:
            log.enable_progress_bar()
