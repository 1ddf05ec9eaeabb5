"""Measurements: what regard costs beside other ways to the same result, on the machine at hand."""
