"""convcg: train and serve shopping conversion candidate generation."""

from importlib.metadata import version

__version__ = version("convcg")
