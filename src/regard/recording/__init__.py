"""A run of a model in a file: made by `record`, read by `Recording`.

A weight is ``exp(score − lse)``: so queries, keys and one number for each row are the whole attention of a
run, at any length. They are kept with mask, bias, score and normalizer as the values they are, and every
observer can be asked later.
"""

from regard.recording.head import RecordedHead
from regard.recording.inputs import Inputs, Output, Projection
from regard.recording.layer import RecordedLayer
from regard.recording.reader import Recording
from regard.recording.recorder import record
from regard.recording.text import Rounding, rounding_in_words, size_in_words
from regard.recording.writer import DTYPES, Progress, sampled_rows

__all__ = [
    "DTYPES",
    "Inputs",
    "Output",
    "Progress",
    "Projection",
    "RecordedHead",
    "RecordedLayer",
    "Recording",
    "Rounding",
    "record",
    "rounding_in_words",
    "sampled_rows",
    "size_in_words",
]
