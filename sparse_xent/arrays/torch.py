"""PyTorch's gradient tape: a function of one tensor, with the derivative that kernels write.

`forward` and `setup_context` stand apart, and the derivative is a function on the tape by itself,
so that torch.func.grad works. It has no derivative of its own: a second one is refused, where a
derivative that the tape took for a constant would be silently wrong. PyTorch is imported by whoever
calls with a tensor, never here.
"""

import sys
from collections.abc import Callable
from functools import cache
from typing import Any


def on_tape(
    x: Any, others: tuple[Any, ...], forward: Callable[..., Any], backward: Callable[..., Any]
) -> Any:
    """forward(x, *others), on the tape of x.

    Args:
        x: the tensor that is differentiated by.
        others: tensors (or None) that both functions read, and that have no derivative.
        forward: gives the result, and a tensor (or None) that `backward` wants to see again.
        backward: backward(upstream, kept, x, *others) gives the gradient with respect to x.

    Returns:
        The result.
    """
    return _functions()[0].apply(x, forward, backward, *others)[0]


@cache
def _functions() -> tuple[Any, Any]:
    """The loss and its derivative; made on first use, for their base class is torch's."""
    torch = sys.modules["torch"]

    class Loss(torch.autograd.Function):  # type: ignore[misc, name-defined]
        @staticmethod
        def forward(x: Any, forward: Any, backward: Any, *others: Any) -> Any:
            return forward(x, *others)

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            x, _, ctx.derivative, *others = inputs
            _, kept = output
            if kept is not None:
                ctx.mark_non_differentiable(kept)
            ctx.set_materialize_grads(False)
            ctx.save_for_backward(kept, x, *others)  # changed in place meanwhile, torch refuses

        @staticmethod
        def backward(ctx: Any, upstream: Any, _: Any) -> Any:
            saved = ctx.saved_tensors
            gradient = None if upstream is None else Slope.apply(ctx.derivative, upstream, *saved)
            return gradient, *(None,) * len(saved)

    class Slope(torch.autograd.Function):  # type: ignore[misc, name-defined]
        @staticmethod
        def forward(derivative: Any, upstream: Any, *saved: Any) -> Any:
            return derivative(upstream, *saved)

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            pass

        @staticmethod
        def backward(ctx: Any, *upstream: Any) -> Any:
            raise RuntimeError(
                "the loss has no second derivative here: torch.nn.functional.cross_entropy has one"
            )

    return Loss, Slope
