"""The data card: one page about a log and what was made of it."""
