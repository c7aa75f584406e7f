"""PyTorch's tensors on CUDA devices, and their gradients.

A loss on a tensor that requires gradients is a node of torch's autograd graph, with the derivative
that kernels write. `forward` and `setup_context` stand apart, and the derivative is a function of
the graph by itself, so that torch.func.grad works. It has no derivative of its own: a second one
is refused, where one that torch took for a constant would be silently wrong.

PyTorch is imported by whoever calls with a tensor, never here.
"""

import sys
from collections.abc import Callable
from functools import cache
from typing import Any

from sparse_xent.arrays.base import ArrayAdapter, ArraySpec
from sparse_xent.dtypes import of_library


class TorchAdapter(ArrayAdapter):
    """PyTorch's CUDA tensors."""

    name = "torch"

    def __init__(self) -> None:
        self.torch = sys.modules["torch"]
        # What Triton launches by: current_stream() makes an object of the same number, slowly.
        self.stream_of = getattr(self.torch._C, "_cuda_getCurrentRawStream", self._current)

    def _current(self, device: int) -> int:
        handle: int = self.torch.cuda.current_stream(device).cuda_stream
        return handle

    def is_on_device(self, array: Any) -> bool:
        """Whether the tensor lies in a CUDA device's memory."""
        return bool(array.is_cuda)

    def read(self, array: Any) -> tuple[int, Any]:
        """Its address, and what `spec` makes a spec of."""
        kind = array.shape, array.stride(), array.dtype, array.get_device(), array.is_neg()
        return array.data_ptr(), kind

    def address(self, array: Any) -> int:
        """The tensor's address."""
        at: int = array.data_ptr()
        return at

    def spec(self, kind: Any) -> ArraySpec:
        """How such tensors lie."""
        shape, strides, dtype, device, negated = kind
        if negated:
            raise TypeError(
                "tensors must hold their values, got a view that negates them when it is read: "
                "pass tensor.resolve_neg()"
            )
        dtype = of_library(str(dtype).removeprefix("torch."))
        strides = tuple(step * dtype.itemsize for step in strides)
        return ArraySpec(tuple(shape), strides, dtype, device)

    def stream(self, array: Any, device: int) -> int:
        """torch's current stream."""
        handle: int = self.stream_of(device)
        return handle

    def empty(self, like: Any, shape: tuple[int, ...], dtype: str) -> Any:
        """A new tensor, C order."""
        return like.new_empty(shape, dtype=getattr(self.torch, dtype))

    def empty_like(self, array: Any) -> Any:
        """A new tensor laid out as another."""
        return self.torch.empty_like(array)

    def cast(self, array: Any, dtype: str) -> Any:
        """A copy of another dtype."""
        return array.detach().to(getattr(self.torch, dtype))

    def copy_into(self, to: Any, array: Any) -> None:
        """Copy values, rounded."""
        to.detach().copy_(array)

    def owns_stream(self, array: Any, stream: int) -> bool:
        """Whether memory may be kept for a stream: torch's are a pool's, and never destroyed."""
        return not self.is_capturing(array)

    def is_capturing(self, array: Any) -> bool:
        """Whether the current stream is being captured."""
        return bool(self.torch.cuda.is_current_stream_capturing())

    def requires_grad(self, array: Any) -> bool:
        """Whether gradients are wanted, and are not switched off."""
        return array.requires_grad and bool(self.torch.is_grad_enabled())

    def with_derivative(
        self,
        x: Any,
        others: tuple[Any, ...],
        forward: Callable[..., Any],
        backward: Callable[..., Any],
    ) -> Any:
        """forward(x, *others), a node of torch's graph."""
        return _functions()[0].apply(x, forward, backward, *others)[0]

    def mark_mutated(self, array: Any) -> None:
        """Let torch refuse a backward pass that wants to see what the tensor held before."""
        self.torch.autograd.graph.increment_version(array)

    def to_device(self, argument: str) -> str:
        """The expression by which the caller brings an array to y_pred's device."""
        return f"torch.as_tensor({argument}, device=y_pred.device)"


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
            if upstream is None:
                return (None,) * (1 + len(saved))
            return Derivative.apply(ctx.derivative, upstream, *saved), *(None,) * len(saved)

    class Derivative(torch.autograd.Function):  # type: ignore[misc, name-defined]
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

    return Loss, Derivative
