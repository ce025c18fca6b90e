"""Named runs: each a YAML file of settings that differ from the defaults. A ladder is a file of steps between them."""

from pathlib import Path

_FILES = {path.stem: path for path in sorted(Path(__file__).parent.glob("*.yaml"))}
#: Name -> file of steps or variants; see `convcg.ladder`.
LADDERS = {name: path for name, path in _FILES.items() if name.startswith("ladder")}
#: Name -> file of settings; see `convcg.config`.
RECIPES = {name: path for name, path in _FILES.items() if name not in LADDERS}
