"""Which documents a model attended to for each token of its answer, exactly, layer by layer and head by head.

    result = regard.attribute(model, tokenizer, documents, "When was the bridge built?")
    result.answer, result.shares("documents").mean(0)      # of the weight of all heads, where it went
    leave_one_out(model, result)               # and how much less likely the answer is without each document

`prompt` puts documents and question together, `run` has the model answer and watches it, `result` is what it
returns, `report` what is shown of it.
"""

from regard.analysis.attribution.prompt import PLAIN, Prompt, sentences
from regard.analysis.attribution.result import Attribution
from regard.analysis.attribution.run import attribute, leave_one_out

CAVEAT = (
    "What this shows, and what it does not. A share is attention: it says from where heads read while a "
    "token was chosen. It does not prove that the answer depends on what was read: other weights can give "
    "the same answer (Jain and Wallace, 2019), and when they mean something has to be tested (Wiegreffe and "
    "Pinter, 2019). What a head reads from a token may also have come to that token from another. The test "
    "is to take a document away and ask again: --check does, leaving out one after the other."
)

__all__ = ["CAVEAT", "PLAIN", "Attribution", "Prompt", "attribute", "leave_one_out", "sentences"]
