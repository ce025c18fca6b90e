"""The gate: no bundle is published whose recall is below it."""

from typing import Any

from convcg.errors import GateError


def check_gate(metrics: dict[str, Any], gate: dict[int, float]) -> None:
    """Compare a bundle's recall with the gate.

    Raises:
        GateError: it is below, naming every k at which it is.
    """
    reached = {k: metrics["recall"]["model"].get(f"recall@{k}") for k in gate}
    missed = [
        f"recall@{k} is {'not measured' if value is None else format(value, '.4f')}, the gate asks for {gate[k]:.4f}"
        for k, value in reached.items()
        if value is None or value < gate[k]
    ]
    if missed:
        raise GateError(
            f"bundle {metrics['model_version']} does not pass: {'; '.join(missed)}. It is not to be published; "
            "train longer, look at the data, or change evaluate.gate."
        )
