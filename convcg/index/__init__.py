"""Exact search over a shard of pin embeddings, behind one protocol. Blind to data, model and metrics."""
