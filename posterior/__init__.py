"""The amortized posterior."""
