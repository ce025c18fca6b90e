"""Named runs: each a YAML file of settings that differ from the defaults."""

from pathlib import Path

#: Name -> file.
RECIPES = {path.stem: path for path in sorted(Path(__file__).parent.glob("*.yaml"))}
