"""Cross layers: products of features, learned (DCN v2: Wang et al., 2021, arXiv 2008.13535, equation 1 and section 4).

Shape suffixes: N rows, D width.
"""

from torch import Tensor, nn

from convcg.errors import ConfigError


class CrossLayers(nn.Module):
    """x_{l+1} = x_0 * (W_l x_l + b_l) + x_l; with a rank, W_l = U_l V_l^T of that rank."""

    def __init__(self, width: int, *, num_layers: int, rank: int | None) -> None:
        super().__init__()
        if rank is not None and rank >= width:
            raise ConfigError(
                f"cross_rank = {rank} is no less than the width {width} of what the tower reads; choose a smaller one "
                "(a quarter of the width is usual), or null for full rank."
            )
        self.layers = nn.ModuleList(_matrix(width, rank) for _ in range(num_layers))

    def forward(self, x_ND: Tensor) -> Tensor:
        """[N, D] -> [N, D]."""
        crossed = x_ND
        for layer in self.layers:
            crossed = x_ND * layer(crossed) + crossed
        return crossed


def _matrix(width: int, rank: int | None) -> nn.Module:
    if rank is None:
        return nn.Linear(width, width)
    return nn.Sequential(nn.Linear(width, rank, bias=False), nn.Linear(rank, width))
