"""The network that every arm trains, and the floating-point operations that one step of it cannot avoid.

This module needs nothing but Python, as the arm in PyTorch runs in an interpreter of its own.
"""

from collections.abc import Sequence

STAGES = ("finetune", "pretrain")
IN_FLOAT32 = "_float32"  # ends the name of an arm whose matrix products stay in float32
DIM = 16
CROSS_LAYERS = 3
HIDDEN_UNITS = (400, 400, 400)
LEARNING_RATE = 1e-3
GRADIENT_NORM = 10.0


def dense_shapes(width: int) -> list[tuple[int, int]]:
    """(inputs, outputs) of every dense layer of DCN-V2 on `width` inputs: the crosses, then the tower."""
    tower = [width, *HIDDEN_UNITS]
    return [(width, width)] * CROSS_LAYERS + list(zip(tower, HIDDEN_UNITS, strict=False))


def step_flops(stage: str, batch: int, field_rows: Sequence[int], full_softmax_rows: int, candidates: int) -> float:
    """Floating-point operations of the matrix products of one step, forward and backward.

    A product [m, k] x [k, n] takes 2 m k n operations, and its two gradients as many each. Pre-training adds the fields'
    query vectors and their scores, where each token is masked with probability (T + 1) / (2 T), T = N + 1 (linear schedule,
    discrete time).
    """
    tokens = len(field_rows) + 1
    width = tokens * DIM
    hidden = width + HIDDEN_UNITS[-1]
    products = sum(inputs * outputs for inputs, outputs in dense_shapes(width)) + hidden * DIM
    if stage == "pretrain":
        masked = (tokens + 1) / (2 * tokens)
        scored = sum(rows if rows <= full_softmax_rows else min(candidates, batch) for rows in field_rows)
        products += hidden * len(field_rows) * DIM + masked * scored * DIM
    return 3 * 2.0 * batch * products
