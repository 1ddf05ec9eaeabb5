"""Private APIs of torch and transformers, one function each.

Nothing else in the package reads a name of theirs that begins with an underscore, or depends on how they are
written inside. `tests/unit/test_compat.py` has a test for each, which names what a new version broke.
"""
