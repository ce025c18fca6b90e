"""The two towers and their losses. Blind to data, index and metrics."""
