"""Speed and accuracy figures of sedcast, run from the repository root: ``python -m benchmarks NAME``."""
