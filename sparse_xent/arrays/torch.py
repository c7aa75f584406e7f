"""PyTorch's tensors, on the host and on CUDA devices, and their gradients.

A tensor on the host is the ndarray of its memory, and a result is a tensor of the array that NumPy
made: nothing is copied. On either device a loss on a tensor that requires gradients is a node of
torch's autograd graph, with the derivative that kernels write, and a function of the graph by
itself. It has no derivative of its own: a second one is refused, where one that torch took for a
constant would be silently wrong.

PyTorch is imported by whoever calls with a tensor, never here.
"""

import sys
from collections.abc import Callable
from functools import cache
from typing import Any, NoReturn

import numpy as np

from sparse_xent.arrays import dynamo, foreign
from sparse_xent.arrays.base import Array, ArrayAdapter, ArraySpec
from sparse_xent.dtypes import of_library


class TorchAdapter(ArrayAdapter):
    """PyTorch's tensors."""

    name = "torch"

    def __init__(self) -> None:
        self.torch = torch = sys.modules["torch"]
        # What Triton launches by: current_stream() makes an object of the same number, slowly.
        self.stream_of = getattr(torch._C, "_cuda_getCurrentRawStream", self._current)
        self._tensor, self._from_numpy = torch.Tensor, torch.from_numpy
        self._bfloat16, self._int16 = torch.bfloat16, torch.int16
        self._grad_is_on = torch.is_grad_enabled
        # What autograd.Function itself asks, to know whether torch.func looks at a call.
        self._transforms = getattr(torch._C, "_are_functorch_transforms_active", lambda: False)
        self._forward_mode = torch.autograd.forward_ad
        dynamo.run_uncompiled()

    def _current(self, device: int) -> int:
        handle: int = self.torch.cuda.current_stream(device).cuda_stream
        return handle

    # ---- CUDA devices ---------------------------------------------------------------------------

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
            _refuse_negated("tensors must hold their", "tensor")
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

    def to_device(self, argument: str) -> str:
        """The expression by which the caller brings an array to y_pred's device."""
        return f"torch.as_tensor({argument}, device=y_pred.device)"

    # ---- the host -------------------------------------------------------------------------------

    def is_tensor(self, value: object) -> bool:
        """Whether this is a tensor, wherever it lies."""
        return isinstance(value, self._tensor)

    def to_numpy(self, tensor: Any, argument: str) -> Array:
        """An ndarray of the tensor's memory; a copy of a view that negates what lies there."""
        if tensor.requires_grad:
            tensor = tensor.detach()
        if tensor.dtype is self._bfloat16:
            return foreign.of_torch(tensor, argument, of_library("bfloat16"))
        try:
            made: Array = tensor.numpy()
        except (TypeError, RuntimeError):
            return foreign.of_torch(tensor, argument)
        return made

    def as_numpy(self, value: Any) -> Any:
        """An ndarray of a plain tensor's memory; all else as it was sent."""
        if isinstance(value, self._tensor):
            try:
                return value.numpy()
            except (TypeError, RuntimeError):
                pass  # its like is refused, or converted, in one place for all libraries
        return value

    def to_memory(self, out: Any) -> Array:
        """An ndarray of the memory of a tensor that is written to."""
        if out.is_neg():
            _refuse_negated("out must hold its", "out")
        return self.to_numpy(out, "out")

    def of_numpy(self, made: Any) -> Any:
        """A tensor of an ndarray's memory, or of a NumPy scalar: 0-d."""
        array = np.asarray(made)
        if array.dtype.kind == "V":
            return self._from_numpy(array.view(np.int16)).view(self._bfloat16)
        return self._from_numpy(array)

    # ---- gradients ------------------------------------------------------------------------------

    def requires_grad(self, array: Any) -> bool:
        """Whether gradients are wanted and not switched off, or a transform looks at the call."""
        if self.is_taped(array) or self._transforms():
            return True
        return bool(self._forward_mode._current_level >= 0)

    def is_taped(self, array: Any) -> bool:
        """Whether gradients with respect to this tensor are wanted, and not switched off."""
        return bool(array.requires_grad and self._grad_is_on())

    def is_transformed(self) -> bool:
        """Whether torch.func's transforms look at the call: vmap's tensors have no memory."""
        return bool(self._transforms())

    def with_derivative(
        self,
        x: Any,
        others: tuple[Any, ...],
        forward: Callable[..., Any],
        backward: Callable[..., Any],
    ) -> Any:
        """forward(x, *others), a node of torch's graph."""
        if self._transforms():
            return _transformed().apply(x, forward, backward, *others)[0]
        return _eager().apply(x, forward, backward, *others)

    def mark_mutated(self, array: Any) -> None:
        """Let torch refuse a backward pass that wants to see what the tensor held before."""
        self.torch.autograd.graph.increment_version(array)


def _refuse_negated(must_hold: str, name: str) -> NoReturn:
    raise TypeError(
        f"{must_hold} values, got a view that negates them when it is read: "
        f"pass {name}.resolve_neg()"
    )


@cache
def _eager() -> Any:
    """The loss of eager calls: an autograd.Function, made on first use, for that is torch's."""
    torch = sys.modules["torch"]
    grad_is_on, transforms = torch.is_grad_enabled, torch._C._are_functorch_transforms_active

    class Loss(torch.autograd.Function):  # type: ignore[misc, name-defined]
        @staticmethod
        def forward(ctx: Any, x: Any, forward: Any, backward: Any, *others: Any) -> Any:
            made, kept = forward(x, *others)
            ctx.derivative = backward
            ctx.set_materialize_grads(False)
            ctx.save_for_backward(kept, x, *others)  # changed in place meanwhile, torch refuses
            return made

        @staticmethod
        def backward(ctx: Any, upstream: Any, *_: Any) -> Any:
            saved = ctx.saved_tensors
            nothing = (None,) * len(saved)
            if upstream is None:
                return None, *nothing
            if grad_is_on() or transforms():
                return _derivative().apply(ctx.derivative, upstream, *saved), *nothing
            return ctx.derivative(upstream, *saved), *nothing

    return Loss


@cache
def _transformed() -> Any:
    """The loss under torch.func, which wants a `setup_context`: 10 us that eager calls spare."""
    torch = sys.modules["torch"]

    class TransformedLoss(torch.autograd.Function):  # type: ignore[misc, name-defined]
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
            ctx.save_for_backward(kept, x, *others)

        backward = _eager().backward

        @staticmethod
        def jvp(ctx: Any, *tangents: Any) -> Any:
            raise NotImplementedError(
                "the loss has no forward-mode derivative here (torch.func.jvp, jacfwd, hessian): "
                "torch.nn.functional.cross_entropy has one"
            )

        @staticmethod
        def vmap(info: Any, in_dims: Any, *inputs: Any) -> Any:
            made = _one_by_one(TransformedLoss.apply, info, in_dims, inputs)
            values, kept = zip(*made, strict=True)
            if kept[0] is None:
                return (torch.stack(values), None), (0, None)
            return (torch.stack(values), torch.stack(kept)), (0, 0)

    return TransformedLoss


@cache
def _derivative() -> Any:
    """The derivative as a function that torch may see: mapped, and never differentiated."""
    torch = sys.modules["torch"]

    class Derivative(torch.autograd.Function):  # type: ignore[misc, name-defined]
        @staticmethod
        def forward(derivative: Any, upstream: Any, *saved: Any) -> Any:
            return derivative(upstream, *saved)

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            pass

        @staticmethod
        def vmap(info: Any, in_dims: Any, *inputs: Any) -> Any:
            return torch.stack(_one_by_one(Derivative.apply, info, in_dims, inputs)), 0

        @staticmethod
        def backward(ctx: Any, *upstream: Any) -> Any:
            raise RuntimeError(
                "the loss has no second derivative here: torch.nn.functional.cross_entropy has one"
            )

    return Derivative


def _one_by_one(apply: Any, info: Any, in_dims: Any, inputs: Any) -> list[Any]:
    """What `apply` gives for each element along the axes that vmap maps."""
    each = list(zip(inputs, in_dims, strict=True))
    return [
        apply(*(a if axis is None else a.select(axis, i) for a, axis in each))
        for i in range(info.batch_size)
    ]
