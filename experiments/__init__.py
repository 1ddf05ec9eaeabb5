"""What is run from a checkout, not shipped: training, evaluation and cache eviction of the embedded model."""
