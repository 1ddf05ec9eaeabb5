"""A recording that is open for analysis: in the server, in a notebook, or for a page."""

from __future__ import annotations

from dataclasses import dataclass

from regard.analysis.layers import Layer
from regard.recording import Recording


@dataclass(frozen=True)
class OpenRecording:
    """A recording with its layers ready for queries, and the name and identifier under which it is shown."""

    id: str
    name: str
    recording: Recording
    layers: tuple[Layer, ...]

    @classmethod
    def of(cls, recording: Recording, name: str | None = None) -> OpenRecording:
        """A recording, identified by the beginning of its key; its name is that of its file unless one is given."""
        layers = tuple(Layer(layer) for layer in recording)
        return cls(recording.key[:16], name or recording.path.name, recording, layers)
