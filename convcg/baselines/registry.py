"""The baselines by name."""

from collections.abc import Callable, Iterator, Sequence

from convcg.baselines.als import Als
from convcg.baselines.co_visitation import CoVisitation
from convcg.baselines.ease import Ease
from convcg.baselines.interface import Baseline, TrainingLog
from convcg.baselines.item_item import ItemItem
from convcg.baselines.popularity import Popularity, RecentPopularity
from convcg.baselines.revisits import Revisits
from convcg.baselines.sasrec import SasRec

_BUILDERS: dict[str, Callable[[TrainingLog, int | None], Baseline]] = {
    "popularity": lambda log, _: Popularity(log),
    "popularity_7d": lambda log, _: RecentPopularity(log),
    "revisits": lambda log, _: Revisits(log),
    "item_item": lambda log, neighbours: ItemItem(log, num_neighbours=neighbours),
    "co_visitation": lambda log, _: CoVisitation(log),
    "ease": lambda log, _: Ease(log),
    "als": lambda log, _: Als(log),
    "sasrec": lambda log, _: SasRec(log),
}

#: What `evaluate.baselines` may name, but for the oracle of the built-in world.
BASELINES = tuple(_BUILDERS)


def build(
    names: Sequence[str], log: TrainingLog, *, item_item_neighbours: int | None
) -> Iterator[tuple[str, Baseline]]:
    """Each named baseline, made only when its turn has come: some are large.

    Raises:
        ConfigError: one cannot be made of this log, or here.
    """
    for name in names:
        yield name, _BUILDERS[name](log, item_item_neighbours)
