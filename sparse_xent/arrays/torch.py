"""PyTorch's gradient tape: a function of one tensor, with the derivative that kernels write.

`forward` and `setup_context` stand apart, so that torch.func.grad works; the derivative is no
function of the tape (`once_differentiable`): asking for a second one is refused by torch, not
answered wrongly. PyTorch is imported by whoever calls with a tensor, never here.
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
    return _function().apply(x, forward, backward, *others)[0]


@cache
def _function() -> Any:
    """The autograd.Function; made on first use, for its base class is torch's."""
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
        @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator]
        def backward(ctx: Any, upstream: Any, _: Any) -> Any:
            if upstream is None:
                return (None,) * (len(ctx.saved_tensors) + 1)
            kept, x, *others = ctx.saved_tensors
            gradient = ctx.derivative(upstream, kept, x, *others)
            return gradient, None, None, *(None for _ in others)

    return Loss
