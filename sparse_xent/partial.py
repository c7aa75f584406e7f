"""A loss over some of the labels as a small state that merges with others, exactly.

What is kept are sums of float64 numbers without any rounding (`accumulate.ExactSum`), so that no
cut, order or tree of merges can be seen in a result: all give the same bits.

Notation: l losses, w weights (sample times class weight; 1 where there is none), V the number of
labels that are not ignored. Sums go over those labels.
"""

from __future__ import annotations

import functools
import json
import math
import textwrap
import zlib
from collections.abc import Callable, Collection, Mapping
from fractions import Fraction
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from sparse_xent import chunked, execute, implausible, tracing
from sparse_xent.accumulate import SUMS, ExactSum, rounded
from sparse_xent.config import config_epsilon
from sparse_xent.options import (
    NormalizeName,
    Options,
    Reduction,
    describe,
    read,
    whole_number,
)
from sparse_xent.origin import starting_at

Float64 = npt.NDArray[np.float64]

_VERSION = 1
_HEAD = b"sparse_xent.Partial "  # then the version, a line's end, and the JSON text
_FORMAT = "sparse_xent.Partial"
_NOT_FINITE = ("inf", "-inf", "nan")


class Partial:
    """The loss over some of the labels: exact sums, which merge in any order to the same bits.

    `partial()` makes one from data, `from_json` and `from_bytes` from what was stored. It never
    changes: `merge` gives a new one. States are equal where what they measure and all their sums
    are; they hash, copy and pickle.

    It holds sum(w * l), sum(w), sum(w * w) and sum(l * l * w) over labels that are not ignored,
    their number, and for each k of `top_k` the number and the weights of those whose class is
    among the k greatest scores. Each w * l and w * w is rounded to float64 once, l * l * w in this
    order, after each product; no sum is. A loss of weight 0 counts as 0, even where it is inf.

    Attributes:
        count: V, labels that are not ignored, whatever their weight.
        weight: sum(w), a float.
        perplexity: exp of the mean loss, sum(w * l) / sum(w).

    Raises:
        TypeError: it is called: use `partial()`.

    Example:
        >>> import numpy as np
        >>> from sparse_xent import Partial, partial
        >>> y_true, logits = np.array([0, 1, 2, 1]), np.eye(4, 3)
        >>> first = partial(y_true[:3], logits[:3], from_logits=True, top_k=1)
        >>> second = partial(y_true[3:], logits[3:], from_logits=True, top_k=1, offset=3)
        >>> both = first + second
        >>> both
        Partial(count=4, mean=0.6882366076160658, from_logits=True, top_k=[1])
        >>> both.accuracy()
        0.75
        >>> Partial.from_json(both.to_json()) == second.merge(first)
        True
    """

    __slots__ = ("__weakref__", "_config", "_hits", "_sums", "count")

    count: int
    _config: dict[str, Any]  # what the state measures, as plain JSON values
    _sums: dict[str, ExactSum]
    _hits: dict[int, tuple[int, ExactSum]]  # k -> how many, and their weights

    def __init__(self) -> None:
        raise TypeError(
            "Partial is made by partial(y_true, y_pred), Partial.from_json(text) or "
            "Partial.from_bytes(data), not by Partial()"
        )

    @classmethod
    def _of(
        cls,
        config: dict[str, Any],
        count: int,
        sums: dict[str, ExactSum],
        hits: dict[int, tuple[int, ExactSum]],
    ) -> Partial:
        made = object.__new__(cls)
        for name, value in (("_config", config), ("count", count), ("_sums", sums)):
            object.__setattr__(made, name, value)
        object.__setattr__(made, "_hits", hits)
        return made

    # ---- merging ----

    def merge(self, other: Partial) -> Partial:
        """The state of the labels of both, as a new one; neither changes.

        Args:
            other: a state of other labels, of the same loss.

        Returns:
            A `Partial`: the same bits in whatever order states are merged. `a + b` does the same,
            and `sum(states)`.

        Raises:
            TypeError: `other` is no `Partial`.
            ValueError: it measures something else (the message says which argument differs).
        """
        if not isinstance(other, Partial):
            raise TypeError(
                f"other must be a Partial, got {describe(other)}: partial(y_true, y_pred) makes one"
            )
        for key, ours in self._config.items():
            if other._config[key] != ours:
                raise ValueError(
                    f"other must be a state of the same loss, got {key}={other._config[key]!r} "
                    f"where this one has {ours!r}: pass the same options to every partial()"
                )
        sums = {name: _joined(own, other._sums[name]) for name, own in self._sums.items()}
        hits = {}
        for k, (many, weight) in self._hits.items():
            more, their_weight = other._hits[k]
            hits[k] = many + more, _joined(weight, their_weight)
        return self._of(self._config, self.count + other.count, sums, hits)

    def __add__(self, other: object) -> Partial:
        return self.merge(other) if isinstance(other, Partial) else NotImplemented

    def __radd__(self, other: object) -> Partial:
        """`sum` begins with 0."""
        return self if other.__class__ is int and other == 0 else NotImplemented

    # ---- results ----

    def result(self, reduction: str = "sum_over_batch_size") -> float:
        """The reduced loss, rounded to float64 once.

        Args:
            reduction: "sum_over_batch_size" (or "mean", "auto"): sum(w * l) / V; "sum":
                sum(w * l); "mean_with_sample_weight": sum(w * l) / sum(w).

        Returns:
            A float, in nats; 0 where there is nothing to divide by.

        Raises:
            TypeError, ValueError: `reduction` is none of these.
        """
        chosen = read(reduction=reduction).reduction
        if chosen is Reduction.NONE:
            raise ValueError(
                f"reduction must be one that gives a number, got {reduction!r}: a state keeps no "
                "single loss; loss_sparse_categorical_crossentropy(y_true, y_pred) gives them"
            )
        total = self._sums["wl"]
        if chosen is Reduction.SUM:
            return _plain_nan(float(total))
        if chosen is Reduction.MEAN_WITH_SAMPLE_WEIGHT:
            return self._weighted_mean(total)
        return _plain_nan(total.over(Fraction(self.count)))

    def accuracy(self, k: int = 1) -> float:
        """The share of labels whose class is among the k greatest scores, by weight.

        Of equal scores the lower class ranks first; a row with a NaN is wrong at every k.

        Args:
            k: one of those that were given to `partial()` as `top_k`.

        Returns:
            A float from 0 to 1 (for weights that are not negative); 0 where the weights sum to 0.

        Raises:
            TypeError, ValueError: k is none of them.
        """
        k = whole_number(k, "k")
        if k not in self._hits:
            had = ", ".join(map(str, self._hits)) or "none"
            raise ValueError(
                f"k must be one of the state's top_k, got {k} where there is {had}: pass "
                f"top_k={[*sorted({*self._hits, k})]} to every partial()"
            )
        return self._weighted_mean(self._hits[k][1])

    def standard_error(self) -> float | None:
        """The standard error of the weighted mean, `result("mean_with_sample_weight")`.

        With m that mean, W = sum(w) and Q = sum(w * w), the losses' variance is estimated without
        bias by s2 = sum(w * (l - m)^2) / (W - Q / W), and the standard error is sqrt(s2 * Q) / W.
        Without weights it is sd(l) / sqrt(V), sd with V - 1 as in R. It takes losses for drawn
        independently, from one distribution, whatever their weights.

        Returns:
            A float, in nats; None where it is not defined: fewer than two labels of weight other
            than 0, weights that are negative, or something that is not finite.
        """
        if not all(s.finite for s in self._sums.values()):
            return None
        wl, w, ww, wll = (self._sums[name].fraction() for name in SUMS)
        if w <= 0 or w * w <= ww:
            return None
        square = (wll - wl * wl / w) / (w - ww / w) * ww / (w * w)
        return math.sqrt(max(0.0, rounded(square)))

    @property
    def weight(self) -> float:
        """sum(w) over labels that are not ignored; their number without weights."""
        return _plain_nan(float(self._sums["w"]))

    @property
    def perplexity(self) -> float:
        """Exp of the weighted mean, which is divided once."""
        try:
            return math.exp(self._weighted_mean(self._sums["wl"]))
        except OverflowError:
            return math.inf

    def _weighted_mean(self, total: ExactSum) -> float:
        w = self._sums["w"]
        return _plain_nan(total.over(w.fraction())) if w.finite else math.nan

    # ---- storing ----

    def to_json(self) -> str:
        """The state as JSON text of one line, which `from_json` takes.

        Returns:
            A string of a few hundred characters. Sums are lists of numbers whose exact sum they
            are; of a sum that is not finite the last is "inf", "-inf" or "nan".
        """
        plain = self._plain()
        return json.dumps({"format": _FORMAT, "version": _VERSION, **plain, "crc32": _crc(plain)})

    @classmethod
    def from_json(cls, text: str) -> Partial:
        """The state that `to_json` wrote.

        Args:
            text: the JSON text; how it is spaced and ordered does not matter.

        Returns:
            A `Partial`, equal to the one that was written.

        Raises:
            TypeError: `text` is no string.
            ValueError: it is of another version, damaged, or something else.
        """
        if not isinstance(text, str):
            raise TypeError(f"text must be a string from Partial.to_json(), got {describe(text)}")
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict) or found.get("format") != _FORMAT:
            _refuse("text", "to_json()", "something else, or it is damaged")
        if found.get("version") != _VERSION:
            _refuse_version("text", "to_json()", found.get("version"))
        try:
            made = cls._read(found)
            whole = _crc(made._plain()) == found["crc32"]
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError):
            whole = False
        if not whole:
            _refuse("text", "to_json()", "a damaged one")
        return made

    def to_bytes(self) -> bytes:
        """The state as bytes, which `from_bytes` takes; pickles hold them.

        Returns:
            A line that names the format and its version, and the JSON text.
        """
        return b"%s%d\n%s" % (_HEAD, _VERSION, self.to_json().encode())

    @classmethod
    def from_bytes(cls, data: bytes | bytearray | memoryview) -> Partial:
        """The state that `to_bytes` wrote.

        Args:
            data: those bytes, or anything that holds them.

        Returns:
            A `Partial`, equal to the one that was written.

        Raises:
            TypeError: `data` are no bytes.
            ValueError: they are of another version, damaged, or something else.
        """
        if not isinstance(data, bytes | bytearray | memoryview):
            raise TypeError(f"data must be bytes from Partial.to_bytes(), got {describe(data)}")
        head, _, text = bytes(data).partition(b"\n")
        if not head.startswith(_HEAD):
            _refuse("data", "to_bytes()", "something else, or they are damaged")
        version = head.removeprefix(_HEAD).decode("ascii", "replace")
        if version != str(_VERSION):
            _refuse_version("data", "to_bytes()", version)
        try:
            return cls.from_json(text.decode())
        except ValueError:
            pass
        _refuse("data", "to_bytes()", "damaged ones")

    def _plain(self) -> dict[str, Any]:
        """All of the state as plain JSON values: the same ones for equal states."""
        return {
            "config": self._config,
            "count": self.count,
            "sums": {name: _numbers(self._sums[name]) for name in SUMS},
            "hits": {str(k): [many, _numbers(w)] for k, (many, w) in self._hits.items()},
        }

    @classmethod
    def _read(cls, plain: Mapping[str, Any]) -> Partial:
        """What `_plain` gave; an error of whatever kind where it is something else."""
        given = dict(plain["config"])
        epsilon, top_k = given.pop("epsilon"), _top_k(given.pop("top_k"))
        epsilon = None if epsilon is None else float(epsilon)
        weight = given.pop("class_weight")
        if isinstance(weight, dict):
            weight = {c: float(w) for c, w in weight.items()}
        elif weight is not None:
            weight = [float(w) for w in weight]
        normalize = given.pop("normalize") or "after"
        options = read(class_weight=weight, normalize=normalize, epsilon=epsilon, **given)
        sums = {name: _sum_of(plain["sums"][name]) for name in SUMS}
        hits = {int(k): (int(many), _sum_of(w)) for k, (many, w) in plain["hits"].items()}
        if sorted(hits) != list(top_k):
            raise ValueError(sorted(hits))
        hits = {k: hits[k] for k in top_k}
        return cls._of(_config(options, top_k), int(plain["count"]), sums, hits)

    def __reduce__(self) -> tuple[Callable[[bytes], Partial], tuple[bytes]]:
        return Partial.from_bytes, (self.to_bytes(),)

    def __eq__(self, other: object) -> bool:
        return self._plain() == other._plain() if isinstance(other, Partial) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.to_json())

    def __repr__(self) -> str:
        mean = self._weighted_mean(self._sums["wl"])
        defaults = _config(read(epsilon=config_epsilon()), ())
        told = {k: v for k, v in self._config.items() if v is not None and v != defaults[k]}
        shown = [f"{k}={textwrap.shorten(repr(v), 80)}" for k, v in told.items()]
        return f"Partial({', '.join([f'count={self.count}', f'mean={mean!r}', *shown])})"

    def __setattr__(self, key: str, value: object) -> NoReturn:
        raise AttributeError(f"a state cannot be changed: {key} is what partial() has found")

    def __delattr__(self, key: str) -> NoReturn:
        raise AttributeError(f"a state cannot be changed: {key} cannot be deleted")


def partial(
    y_true: Any,
    y_pred: Any,
    from_logits: bool = False,
    ignore_class: int | float | Collection[int] | npt.NDArray[Any] | None = None,
    axis: int = -1,
    *,
    label_smoothing: float = 0.0,
    class_weight: npt.ArrayLike | Mapping[int, float] | Mapping[str, float] | None = None,
    normalize: NormalizeName = "after",
    sample_weight: Any = None,
    top_k: int | Collection[int] = (),
    offset: int = 0,
) -> Partial:
    """The loss over some of the labels, as a state that merges exactly with those of the others.

    For data that is never in one place: a state for each partition, from any pool of processes or
    machines, merged in the order in which they come. The bits of every result are those of one
    call on all the data, however it is cut:

        def of_partition(start):
            here = slice(start, start + 100_000)
            return partial(y_true[here], y_pred[here], offset=start)

        with multiprocessing.Pool() as pool:
            states = pool.imap_unordered(of_partition, range(0, len(y_true), 100_000))
            loss = sum(states).result()

    Losses are computed in `y_pred`'s dtype (halves in float32, and rounded), as
    `loss_sparse_categorical_crossentropy()` gives them; their sums are exact.

    Args:
        y_true: labels 0 .. C-1, `y_pred`'s shape without the class axis (or 1 there), of any
            integer dtype, or whole-number floats; lists too.
        y_pred: class scores, any real dtype, any memory layout, of rank 1 and up; in the host's
            memory, torch's too. dask's are computed chunk by chunk, and only states come back.
        from_logits: whether `y_pred` holds logits; probabilities if False.
        ignore_class: class, or list, set or array of classes, that counts nowhere.
        axis: the class axis of `y_pred`, 0-based; -1 is the last.
        label_smoothing: s, 0 <= s <= 1.
        class_weight: a vector of C weights, or a dict from classes to weights: it multiplies each
            label's weight.
        normalize: how probabilities are made to sum to 1, "after" or "before" they are clipped, or
            "never".
        sample_weight: a number; or weights of the losses' shape, or of fewer axes that match its
            leading ones, or with 1 in place of an axis.
        top_k: numbers k, or one, for `Partial.accuracy(k)`; empty for none.
        offset: where this partition begins along the first axis of all labels: a message adds it
            to the position of what is wrong.

    Returns:
        A `Partial`: about 1 kB whatever the data.

    Raises:
        TypeError: labels, scores or weights are not numbers, or lie on a device.
        ValueError: a label is neither a class nor ignored, a weight is missing (the message names
            the position in all of the data, by `offset`), or shapes or options do not fit.

    Warns:
        UserWarning: as `loss_sparse_categorical_crossentropy()` does, with the position in all of
            the data.

    Cost: one read of `y_pred`, for losses and ranks, and nothing that is as long as the labels.

    Example:
        >>> y_pred = [[0.05, 0.95, 0.0], [0.1, 0.8, 0.1]]
        >>> state = partial([1, 2], y_pred, top_k=(1, 2))
        >>> state.result(), state.accuracy(), state.perplexity
        (1.1769392..., 0.5, 3.24442...)
        >>> state.merge(partial([0], [[0.9, 0.1, 0.0]], top_k=(1, 2))).result("sum")
        2.4592391...
    """
    options = read(
        from_logits, ignore_class, axis, label_smoothing, class_weight, normalize,
        epsilon=config_epsilon(),
    )  # fmt: skip
    of = functools.partial(_of_data, _top_k(top_k))
    with starting_at(_offset(offset)):
        if chunked.is_lazy(y_pred):
            return chunked.state(of, sum, y_true, y_pred, sample_weight, options)  # type: ignore[no-any-return]
        return of(y_true, y_pred, sample_weight, options)


def _of_data(
    top_k: tuple[int, ...], y_true: Any, y_pred: Any, sample_weight: Any, options: Options
) -> Partial:
    """The state of data that are in memory."""
    x = tracing.host_scores(y_pred)
    made, found = execute.exact_sums(y_true, x, sample_weight, options, top_k, squares=True)
    implausible.warn(found, x.shape, options.axis % x.ndim)
    return Partial._of(_config(options, top_k), made.count, made.sums, made.hits)


def _config(options: Options, top_k: tuple[int, ...]) -> dict[str, Any]:
    """What a state measures, as plain JSON values; how its data lay is no part of it."""
    weight: Any = options.class_weight
    if weight is not None:
        by_key = weight and isinstance(weight[0], tuple)
        weight = {str(c): _plain(w) for c, w in weight} if by_key else [*map(_plain, weight)]
    logits = options.from_logits
    return {
        "from_logits": logits,
        "ignore_class": list(options.ignore_class),
        "label_smoothing": options.label_smoothing,
        "class_weight": weight,
        "normalize": None if logits else options.normalize,
        "epsilon": None if logits else options.epsilon,
        "top_k": list(top_k),
    }


def _top_k(value: Any) -> tuple[int, ...]:
    """The numbers k, sorted, each once."""
    if value is None:
        return ()
    some = isinstance(value, Collection) and not isinstance(value, str | bytes | Mapping)
    given = list(value) if some and getattr(value, "shape", None) != () else [value]
    found = sorted({whole_number(k, "top_k") for k in given})
    if found and found[0] < 0:
        raise ValueError(f"top_k must hold numbers from 0 on, got {found[0]}")
    return tuple(found)


def _offset(value: Any) -> int:
    offset = whole_number(value, "offset")
    if offset < 0:
        raise ValueError(
            f"offset must be 0 or more, got {offset}: it is where this partition begins in the data"
        )
    return offset


def _joined(a: ExactSum, b: ExactSum) -> ExactSum:
    """A new sum of the numbers of both."""
    made = ExactSum()
    made.merge(a)
    made.merge(b)
    return made


def _plain_nan(value: float) -> float:
    """The value; of all NaN one, for which one an addition gives is left open."""
    return math.nan if value != value else value


def _plain(number: float) -> float | str:
    """A number as a plain JSON value."""
    return number if math.isfinite(number) else repr(_plain_nan(number))


def _numbers(total: ExactSum) -> list[Any]:
    """An exact sum as plain JSON values."""
    return [_plain(p) for p in total.partials()]


def _sum_of(numbers: list[Any]) -> ExactSum:
    """The exact sum that `_numbers` wrote."""
    for n in numbers:
        if n not in _NOT_FINITE and (isinstance(n, bool) or not isinstance(n, int | float)):
            raise ValueError(n)
    return ExactSum([float(n) for n in numbers])


def _crc(plain: Mapping[str, Any]) -> int:
    """A checksum of what a state holds."""
    return zlib.crc32(json.dumps(plain, sort_keys=True).encode())


def _refuse(argument: str, method: str, got: str) -> NoReturn:
    raise ValueError(f"{argument} must be what Partial.{method} gave, got {got}: write it anew")


def _refuse_version(argument: str, method: str, version: object) -> NoReturn:
    raise ValueError(
        f"{argument} must be what Partial.{method} of version {_VERSION} gave, got version "
        f"{describe(version)}: read it by the sparse_xent that wrote it"
    )
