"""From an event log to training examples, tables and tensors. Blind to model, index and metrics."""
