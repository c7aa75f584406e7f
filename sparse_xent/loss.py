"""The losses' public face: two functions that mirror R keras3's, and the objects that they return.

Called with data, a function gives one loss per label; called without, a callable object that
reduces and gives gradients. All else is elsewhere: `execute` and below.

Notation: x logits, p probabilities, t a row's label, C classes, s label smoothing, eps
`config_epsilon()`; logs are natural, so losses are in nats.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, NoReturn, Self, cast, overload

import numpy as np
import numpy.typing as npt

from sparse_xent import execute
from sparse_xent.arrays.tracing import not_converted
from sparse_xent.config import config_floatx
from sparse_xent.execute import called_by_keras
from sparse_xent.options import (
    REDUCTION,
    SOFT_NAME,
    NormalizeName,
    Options,
    ReductionName,
    describe,
    has_data,
    plain,
    read,
    read_once,
    refuse_unknown,
)
from sparse_xent.options import DType as _DType
from sparse_xent.options import IgnoreClass as _IgnoreClass

_ClassWeight = npt.ArrayLike | Mapping[int, float] | Mapping[str, float] | None


@not_converted
class _Loss:
    """What both loss objects share: immutable, hashable, equal where their configs are."""

    __slots__ = ("__weakref__", "_options")  # jax.jit keeps weak references
    _options: Options
    _soft: ClassVar[bool]  # whether targets are one-hot or soft
    _keys: ClassVar[tuple[str, ...]]  # the arguments, in the order of the signature

    def _construct(self, given: Mapping[str, Any], unknown: Mapping[str, object]) -> None:
        if "sample_weight" in unknown:
            raise TypeError(
                f"sample_weight is an argument of the call, not of {type(self).__name__}(): "
                "loss(y_true, y_pred, sample_weight=w)"
            )
        refuse_unknown(unknown, self._keys, type(self).__name__)
        given = {key: given[key] for key in self._keys}
        if given["dtype"] is None:
            given["dtype"] = config_floatx()
        options = read(**given, default_name=self._default("name"), soft=self._soft)
        object.__setattr__(self, "_options", options)

    @property
    def name(self) -> str:
        """The loss's name."""
        return self._options.name

    @property
    def reduction(self) -> str | None:
        """How the losses are reduced; None where they are not."""
        return cast(str | None, self._options.reduction.value)

    @property
    def dtype(self) -> str:
        """Name of the dtype that a call returns."""
        return cast(np.dtype[Any], self._options.dtype).name

    def _for_keras(self, y_true: Any, y_pred: Any) -> Any:
        """One loss a label: weights, masks and the mean are Keras's."""
        config = self.get_config()
        for key, served in (("ignore_class", [None]), ("reduction", [REDUCTION, None])):
            if config.get(key) not in served:
                raise ValueError(
                    f"{key} must be {served[0]!r} where Keras calls, got {config[key]!r}: Keras "
                    "makes the mean of the losses itself, over ignored labels too; pass "
                    f"sparse_xent.integrations.keras.{self!r}"
                )
        return execute.losses(y_true, y_pred, None, self._options)

    def get_config(self) -> dict[str, Any]:
        """The arguments as plain JSON values, from which `from_config` makes an equal object.

        Returns:
            A dict with a key for each argument; `dtype` by its name, one ignored class as an int,
            several as a sorted list, class weights as a list or a dict with string keys.
        """
        return {key: plain(key, getattr(self._options, key)) for key in self._keys}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """An object made from what `get_config` returned.

        Args:
            config: arguments by name.

        Returns:
            The object.
        """
        return cls(**config)

    def __eq__(self, other: object) -> bool:
        return self._options == other._options if type(other) is type(self) else NotImplemented

    def __hash__(self) -> int:
        return hash((type(self), self._options))

    def __repr__(self) -> str:
        shown = [
            f"{key}={value!r}"
            for key, value in self.get_config().items()
            if value != self._default(key)
        ]
        return f"{type(self).__name__}({', '.join(shown)})"

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _from_config, (type(self), self.get_config())

    def __setattr__(self, key: str, value: object) -> NoReturn:
        raise AttributeError(f"a loss cannot be changed: construct another with {key}={value!r}")

    def __delattr__(self, key: str) -> NoReturn:
        raise AttributeError(f"a loss cannot be changed: {key} cannot be deleted")

    @classmethod
    def _default(cls, key: str) -> Any:
        return config_floatx() if key == "dtype" else inspect.signature(cls).parameters[key].default


class SparseCategoricalCrossentropy(_Loss):
    """Crossentropy between integer labels and class scores, as a callable that reduces.

    Mirrors `keras.losses.SparseCategoricalCrossentropy`, without a framework. The arguments are
    those of `loss_sparse_categorical_crossentropy()`, keyword-only; the formulas stand there.

    Args:
        from_logits: whether `y_pred` holds logits; probabilities if False.
        ignore_class: class, or list, set or array of classes, whose losses and gradients are
            exactly 0.
        axis: the class axis of `y_pred`, 0-based.
        label_smoothing: share s of the target that is spread over all classes, 0 <= s <= 1.
        class_weight: a vector of C weights, of any library on the CPU; or a dict from classes to
            weights, or a pandas Series that has the classes in its index (absent ones are 1). It
            multiplies each label's loss.
        normalize: how probabilities are made to sum to 1, "after" or "before" they are clipped, or
            "never".
        reduction: "sum_over_batch_size" (or "mean", "auto"): sum(l * w) / V, V labels not ignored;
            "sum"; "mean_with_sample_weight": sum(l * w) / sum(w); None or "none": l * w.
        name: the loss's name.
        dtype: dtype of the value; `config_floatx()` as it is now if None. The gradient has
            `y_pred`'s.
        device: "cuda" (or "cuda:1" and so on) takes NumPy's arrays to that device and the results
            back; None leaves them where they are. Device arrays are served where they lie.

    Raises:
        TypeError, ValueError: an argument is of the wrong kind or out of range.

    Warns:
        UserWarning: a call was given what cannot be probabilities, or one class only: see
            `loss_sparse_categorical_crossentropy()`.

    Example:
        >>> import numpy as np
        >>> loss = SparseCategoricalCrossentropy()
        >>> y_pred = np.array([[0.05, 0.95, 0.0], [0.1, 0.8, 0.1]])
        >>> print(loss([1, 2], y_pred))
        1.1769392
        >>> print(loss([1, 2], y_pred, sample_weight=[0.3, 0.7]))
        0.8135988

    Source: Keras 3, `keras.losses.SparseCategoricalCrossentropy`.
    """

    __slots__ = ()
    _soft = False
    _keys = (
        "from_logits",
        "ignore_class",
        "axis",
        "label_smoothing",
        "class_weight",
        "normalize",
        "reduction",
        "name",
        "dtype",
        "device",
    )

    def __init__(
        self,
        *,
        from_logits: bool = False,
        ignore_class: _IgnoreClass = None,
        axis: int = -1,
        label_smoothing: float = 0.0,
        class_weight: _ClassWeight = None,
        normalize: NormalizeName = "after",
        reduction: ReductionName | None = "sum_over_batch_size",
        name: str | None = "sparse_categorical_crossentropy",
        dtype: _DType = None,
        device: str | None = None,
        **unknown: object,
    ) -> None:
        self._construct(locals(), unknown)

    @not_converted
    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """The reduced loss.

        Args:
            y_true: labels 0 .. C-1, `y_pred`'s shape without the class axis (or 1 there), of any
                integer dtype, or whole-number floats.
            y_pred: class scores, any real dtype, any memory layout.
            sample_weight: a number; or weights of the losses' shape, or of fewer axes that match
                its leading ones, or with 1 in place of an axis. None may be missing (NaN, R's NA)
                but at ignored labels, where they are not read.

        Returns:
            A NumPy scalar of `dtype`; with reduction None an array of the losses' shape. 0 where
            nothing is kept. For a torch tensor, on the host or a CUDA device, or a CuPy array, one
            of its library there (0-d for the value): on the caller's stream, and with a gradient
            where the tensor requires one, which is found with the value (`torch.no_grad()` spares
            it). A second derivative is refused. For JAX's and TensorFlow's arrays, theirs (0-d),
            which they trace and differentiate. For dask's, a lazy one, whose bits do not depend
            on chunks. Where Keras calls, in a model that was compiled with the object, one loss a
            label, which Keras weighs, masks and averages itself.

        Raises:
            TypeError: labels, scores or weights are not numbers.
            ValueError: a label is neither a class nor ignored, a weight is missing, or shapes do
                not fit; or Keras calls an object with an ignored class or another reduction than
                the default, which are for `sparse_xent.integrations.keras`.
        """
        if sample_weight is None and called_by_keras():
            return self._for_keras(y_true, y_pred)
        return execute.value(y_true, y_pred, sample_weight, self._options)

    @not_converted
    def value_and_grad(
        self, y_true: Any, y_pred: Any, sample_weight: Any = None, out: Any = None
    ) -> tuple[Any, Any]:
        """The reduced loss and its derivative with respect to `y_pred`.

        Args:
            y_true: labels, as in a call.
            y_pred: class scores, as in a call.
            sample_weight: weights, as in a call.
            out: where the gradient goes: an array of `y_pred`'s library, shape and dtype, in native
                byte order and writable, in any memory layout; `y_pred` itself, which is then
                overwritten, or an array that does not overlap it. A new array if None.

        Returns:
            The value, as a call returns it, and the gradient, in `y_pred`'s dtype: `out` where it
            was given. Of a tensor both are tensors, and on no gradient tape; of dask's arrays both
            are lazy: compute them together, for one task makes both of a chunk. With reduction
            None, the gradient of the values' sum. Rows of ignored labels and of weight 0 are
            exactly 0. On a CUDA device the gradient row of a label that is no
            class is NaN, which `cuda_check()` or the next call there raises: with `out=y_pred`
            the scores are lost by then.

        Raises:
            TypeError, ValueError: as in a call, or `out` does not fit; nothing is written then.
                JAX's and TensorFlow's arrays are refused, for they have gradients of their own:
                `jax.value_and_grad(lambda x: loss(y_true, x))(y_pred)`, `tf.GradientTape`.

        Example:
            >>> import numpy as np
            >>> loss = SparseCategoricalCrossentropy(from_logits=True)
            >>> value, gradient = loss.value_and_grad([0], np.zeros((1, 2)))
            >>> gradient
            array([[-0.5,  0.5]])
        """
        return execute.value_and_grad(y_true, y_pred, sample_weight, out, self._options)


class CategoricalCrossentropy(_Loss):
    """Crossentropy between one-hot or soft targets and class scores, as a callable that reduces.

    The sibling of `SparseCategoricalCrossentropy` for targets that are not one integer a label;
    the formulas stand at `loss_categorical_crossentropy()`.

    Args:
        from_logits: whether `y_pred` holds logits; probabilities if False.
        label_smoothing: share s of the target that is spread over all classes, 0 <= s <= 1.
        axis: the class axis, 0-based.
        reduction: "sum_over_batch_size" (or "mean", "auto"): sum(l * w) / number of losses;
            "sum"; "mean_with_sample_weight": sum(l * w) / sum(w); None or "none": l * w.
        name: the loss's name.
        dtype: dtype of the value; `config_floatx()` as it is now if None.

    Raises:
        TypeError, ValueError: an argument is of the wrong kind or out of range.

    Warns:
        UserWarning: a call was given what cannot be probabilities, or one class only: see
            `loss_categorical_crossentropy()`.

    Example:
        >>> loss = CategoricalCrossentropy()
        >>> print(loss([[0, 1, 0], [0, 0, 1]], [[0.05, 0.95, 0.0], [0.1, 0.8, 0.1]]))
        1.1769392

    Source: Keras 3, `keras.losses.CategoricalCrossentropy`.
    """

    __slots__ = ()
    _soft = True
    _keys = ("from_logits", "label_smoothing", "axis", "reduction", "name", "dtype")

    def __init__(
        self,
        *,
        from_logits: bool = False,
        label_smoothing: float = 0.0,
        axis: int = -1,
        reduction: ReductionName | None = "sum_over_batch_size",
        name: str | None = "categorical_crossentropy",
        dtype: _DType = None,
        **unknown: object,
    ) -> None:
        self._construct(locals(), unknown)

    @not_converted
    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """The reduced loss.

        Args:
            y_true: targets of `y_pred`'s shape, not negative; they need not sum to 1.
            y_pred: class scores, any real dtype, any memory layout.
            sample_weight: as for `SparseCategoricalCrossentropy`.

        Returns:
            A NumPy scalar of `dtype`; with reduction None an array of the losses' shape. For a
            torch tensor on the host a tensor, as for `SparseCategoricalCrossentropy`.

        Raises:
            TypeError: targets, scores or weights are not numbers.
            ValueError: a target is negative or NaN, or shapes do not fit.
        """
        if sample_weight is None and called_by_keras():
            return self._for_keras(y_true, y_pred)
        return execute.value(y_true, y_pred, sample_weight, self._options)

    @not_converted
    def value_and_grad(
        self, y_true: Any, y_pred: Any, sample_weight: Any = None, out: Any = None
    ) -> tuple[Any, Any]:
        """The reduced loss and its derivative with respect to `y_pred`.

        Args:
            y_true: targets, as in a call.
            y_pred: class scores, as in a call.
            sample_weight: weights, as in a call.
            out: where the gradient goes, as for `SparseCategoricalCrossentropy`.

        Returns:
            The value, and the gradient in `y_pred`'s dtype: `out` where it was given.

        Raises:
            TypeError, ValueError: as in a call, or `out` does not fit; nothing is written then.
        """
        return execute.value_and_grad(y_true, y_pred, sample_weight, out, self._options)


@overload
def loss_sparse_categorical_crossentropy(
    y_true: None = None,
    y_pred: None = None,
    from_logits: bool = False,
    ignore_class: _IgnoreClass = None,
    axis: int = -1,
    *,
    label_smoothing: float = 0.0,
    class_weight: _ClassWeight = None,
    normalize: NormalizeName = "after",
    reduction: ReductionName | None = "sum_over_batch_size",
    name: str | None = "sparse_categorical_crossentropy",
    dtype: _DType = None,
    device: str | None = None,
) -> SparseCategoricalCrossentropy: ...
@overload
def loss_sparse_categorical_crossentropy(
    y_true: npt.ArrayLike,
    y_pred: npt.ArrayLike,
    from_logits: bool = False,
    ignore_class: _IgnoreClass = None,
    axis: int = -1,
    *,
    label_smoothing: float = 0.0,
    class_weight: _ClassWeight = None,
    normalize: NormalizeName = "after",
    reduction: Literal["sum_over_batch_size"] = "sum_over_batch_size",
    name: str | None = "sparse_categorical_crossentropy",
    dtype: _DType = None,
    device: str | None = None,
) -> npt.NDArray[Any]: ...
@not_converted
def loss_sparse_categorical_crossentropy(
    y_true: Any = None,
    y_pred: Any = None,
    from_logits: Any = False,
    ignore_class: Any = None,
    axis: Any = -1,
    *,
    label_smoothing: Any = 0.0,
    class_weight: Any = None,
    normalize: Any = "after",
    reduction: Any = "sum_over_batch_size",
    name: Any = "sparse_categorical_crossentropy",
    dtype: Any = None,
    device: Any = None,
    **unknown: Any,
) -> Any:
    """Crossentropy between integer labels and class scores, one loss per label.

    With logits x, loss = logsumexp(x) - x_t; its error is relative to the loss itself. With
    probabilities p, q = clip(p, eps, 1 - eps) and loss = log(sum_j q_j) - log(q_t), as Keras on
    TensorFlow has it; `normalize` has the other two ways. With label smoothing s the target is
    (1 - s) at t and s / C everywhere (over the classes that are not -inf, for logits).

    Args:
        y_true: labels 0 .. C-1, `y_pred`'s shape without the class axis (or 1 there), of any
            integer dtype, or whole-number floats; an array or tensor of any library, or lists.
            None, with `y_pred`, asks for the object.
        y_pred: class scores, any real dtype, any memory layout, of rank 1 and up. Its library is
            that of the losses.
        from_logits: whether `y_pred` holds logits; probabilities if False.
        ignore_class: class, or list, set or array of classes, whose loss is exactly 0.
        axis: the class axis of `y_pred`, 0-based; -1 is the last.
        label_smoothing: s, 0 <= s <= 1.
        class_weight: a vector of C weights, of any library on the CPU; or a dict from classes to
            weights, or a pandas Series that has the classes in its index (absent ones are 1). It
            multiplies each label's loss.
        normalize: "after", as above; "before": r = clip(p / sum p, eps, 1 - eps), loss = -log(r_t),
            as Keras on torch and JAX has it; "never": loss = -log(q_t), one element read per label.
        reduction: how the object reduces; with data there is no reduction, and any other than the
            default is refused.
        name: the object's name.
        dtype: dtype of the losses; `y_pred`'s if None. For the object `config_floatx()` if None.
        device: "cuda" (or "cuda:1" and so on) takes NumPy's arrays to that device and the losses
            back; None leaves them where they are. Device arrays are served where they lie.

    Returns:
        The losses in nats, of `y_pred`'s shape without the class axis, a NumPy scalar for a single
        one. For a torch tensor, on the host or a CUDA device, or a CuPy array, one of its library
        there: on the caller's stream, and with a gradient where the tensor requires one. For JAX's
        and TensorFlow's arrays, theirs: traced, compiled and differentiated by them as often as
        they like; a traced label that is no class makes its loss and its gradient row NaN. For
        dask's arrays, and xarray's over dask, a lazy one, in `y_pred`'s chunks; an error then
        comes when it is computed. Without data, a `SparseCategoricalCrossentropy`.

    Raises:
        TypeError: labels or scores are not numbers, one of the two is missing, or a keyword is
            unknown (the message names the nearest).
        ValueError: a label is neither a class nor ignored (the message names its position and the
            likely cause), or shapes or options do not fit.

    Warns:
        UserWarning: with `from_logits=False` a row whose label is not ignored, of whatever weight,
            holds a score below -1e-3 or above 1 + 1e-3 (with `normalize="never"`: its label's
            score is one); or there is one class only, in either form. One warning a call names
            the first such score, its position, how many rows there are, and what they look like
            (logits, percentages or counts). The result is that of the formula all the same, and
            complete when the warning comes. Scores on CUDA devices and other accelerators, and
            those that JAX or TensorFlow traces, are not looked at for it.

    Cost: one read of `y_pred`.

    Example:
        >>> y_pred = [[0.05, 0.95, 0.0], [0.1, 0.8, 0.1]]
        >>> loss_sparse_categorical_crossentropy([1, 2], y_pred)
        array([0.05129339, 2.30258509])
        >>> scce = loss_sparse_categorical_crossentropy(reduction="sum")
        >>> print(scce([1, 2], y_pred))
        2.3538785

    Source: R keras3, `loss_sparse_categorical_crossentropy`.
    """
    if y_true is None or y_pred is None or unknown or reduction is not REDUCTION:
        options = {
            "from_logits": from_logits,
            "ignore_class": ignore_class,
            "axis": axis,
            "label_smoothing": label_smoothing,
            "class_weight": class_weight,
            "normalize": normalize,
            "reduction": reduction,
            "name": name,
            "dtype": dtype,
            "device": device,
        }
        if not _has_data(y_true, y_pred, unknown, "loss_sparse_categorical_crossentropy", options):
            return SparseCategoricalCrossentropy(**options)
    chosen = read_once(
        from_logits, ignore_class, axis, label_smoothing, class_weight,
        normalize, reduction, name, dtype, device,
    )  # fmt: skip
    return execute.losses(y_true, y_pred, None, chosen)


@overload
def loss_categorical_crossentropy(
    y_true: None = None,
    y_pred: None = None,
    from_logits: bool = False,
    label_smoothing: float = 0.0,
    axis: int = -1,
    *,
    reduction: ReductionName | None = "sum_over_batch_size",
    name: str | None = "categorical_crossentropy",
    dtype: _DType = None,
) -> CategoricalCrossentropy: ...
@overload
def loss_categorical_crossentropy(
    y_true: npt.ArrayLike,
    y_pred: npt.ArrayLike,
    from_logits: bool = False,
    label_smoothing: float = 0.0,
    axis: int = -1,
    *,
    reduction: Literal["sum_over_batch_size"] = "sum_over_batch_size",
    name: str | None = "categorical_crossentropy",
    dtype: _DType = None,
) -> npt.NDArray[Any]: ...
@not_converted
def loss_categorical_crossentropy(
    y_true: Any = None,
    y_pred: Any = None,
    from_logits: Any = False,
    label_smoothing: Any = 0.0,
    axis: Any = -1,
    *,
    reduction: Any = "sum_over_batch_size",
    name: Any = "categorical_crossentropy",
    dtype: Any = None,
    **unknown: Any,
) -> Any:
    """Crossentropy between one-hot or soft targets and class scores, one loss per row.

    With targets y and a = y (1 - s) + s / C: for logits x, loss = sum_j a_j (logsumexp(x) - x_j);
    for probabilities p, r = clip(p / sum p, eps, 1 - eps) and loss = -sum_j a_j log(r_j). 0 times
    inf is 0. For one integer a label, `loss_sparse_categorical_crossentropy()` needs neither the
    memory nor the time.

    Args:
        y_true: targets of `y_pred`'s shape, not negative; they need not sum to 1. None, with
            `y_pred`, asks for the object.
        y_pred: class scores, any real dtype, any memory layout, of rank 1 and up.
        from_logits: whether `y_pred` holds logits; probabilities if False.
        label_smoothing: s, 0 <= s <= 1.
        axis: the class axis, 0-based; -1 is the last.
        reduction: how the object reduces; with data any other than the default is refused.
        name: the object's name.
        dtype: dtype of the losses; `y_pred`'s if None. For the object `config_floatx()` if None.

    Returns:
        The losses in nats, of `y_pred`'s shape without the class axis, a NumPy scalar for a single
        one; for a torch tensor on the host a tensor, with its gradient. For JAX's and TensorFlow's
        arrays, theirs, with derivatives by targets too; a traced target that is negative or NaN
        makes its row NaN. For dask's arrays, a lazy one. Without data, a
        `CategoricalCrossentropy`.

    Raises:
        TypeError: targets or scores are not numbers, one of the two is missing, or a keyword is
            unknown.
        ValueError: a target is negative or NaN, or shapes or options do not fit.

    Warns:
        UserWarning: with `from_logits=False` a row holds a score below -1e-3 or above 1 + 1e-3; or
            there is one class only, in either form. One warning a call names the first such
            score, its position, how many rows there are, and what they look like (logits,
            percentages or counts). The result is that of the formula all the same, and complete
            when the warning comes. Scores on accelerators, and those that JAX or TensorFlow
            traces, are not looked at for it.

    Cost: one read of `y_pred` and one of `y_true`.

    Example:
        >>> loss_categorical_crossentropy([0, 1, 0], [0.05, 0.95, 0.0])
        np.float64(0.05129329438755058)

    Source: R keras3, `loss_categorical_crossentropy`.
    """
    options = {
        "from_logits": from_logits,
        "label_smoothing": label_smoothing,
        "axis": axis,
        "reduction": reduction,
        "name": name,
        "dtype": dtype,
    }
    if not _has_data(y_true, y_pred, unknown, "loss_categorical_crossentropy", options):
        return CategoricalCrossentropy(**options)
    chosen = read(**options, default_name=SOFT_NAME, soft=True)
    return execute.losses(y_true, y_pred, None, chosen)


def _has_data(
    y_true: object,
    y_pred: object,
    unknown: Mapping[str, object],
    function: str,
    options: Mapping[str, object],
) -> bool:
    """Whether this is the form with data; refuses what neither form, or the other one, takes."""
    if "sample_weight" in unknown:
        raise TypeError(
            f"sample_weight is an argument of the object, not of {function}(): "
            f"call {_as_call(function, options)}(y_true, y_pred, sample_weight=w)"
        )
    refuse_unknown(unknown, ("y_true", "y_pred", *options), function)
    if not has_data(y_true, y_pred, function, "loss", "reduces"):
        return False
    reduction = options["reduction"]
    if not isinstance(reduction, str) or reduction != REDUCTION:
        raise TypeError(
            f"reduction={describe(reduction)} is for the object: with data {function}() gives one "
            f"loss per label; call {_as_call(function, options)}(y_true, y_pred)"
        )
    return True


def _as_call(function: str, options: Mapping[str, object]) -> str:
    """The call that makes the object with these options, for a message; defaults are left out."""
    cls: Any = SparseCategoricalCrossentropy if "normalize" in options else CategoricalCrossentropy
    shown = []
    for key, value in options.items():
        default = cls._default(key) if key != "dtype" else None
        if isinstance(value, bool | int | float | str | type(None)):
            shown += [f"{key}={value!r}"] if value != default else []
        else:  # an array, say: by the argument's name
            shown.append(f"{key}={key}")
    return f"{function}({', '.join(shown)})"


def _from_config(cls: type[_Loss], config: Mapping[str, Any]) -> _Loss:
    return cls.from_config(config)
