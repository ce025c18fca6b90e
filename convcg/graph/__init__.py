"""Vectors of pins from the graph of who acted on what, with content filling in for pins that nobody acted on."""
