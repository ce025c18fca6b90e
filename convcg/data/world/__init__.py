"""The built-in world: a documented simulator with known truth, from a thousand users to a hundred million events.

It exists to try everything out without data of one's own, and to know the right answer. People and pins live in one
latent space; all behaviour follows from it, and the tables show noisy views of it. `config` names every knob. It says
nothing about real shoppers, and is not tuned to favour a method.

The catalogue is drawn once from the seed. People are drawn in blocks, each from the seed and its own number, so that
any number of processes writes the same bytes.
"""

from convcg.data.world.config import WorldConfig
from convcg.data.world.oracle import Asked, Oracle
from convcg.data.world.write import WorldSummary, write_world

__all__ = ["Asked", "Oracle", "WorldConfig", "WorldSummary", "write_world"]
