"""Runs the Python blocks of a vignette that trains models, for two steps an epoch, and checks them.

    KERAS_BACKEND=torch python tests/trained_pages.py NAME

The blocks are those of the page as it is shown, but for its line `steps = None`; figures go to
figures/ in the current folder. Each page has a function in CHECKS, which is given all that the
blocks defined. A block that warns fails: the page would show the warning.
"""

import itertools
import re
import sys
import warnings
from pathlib import Path

import matplotlib
import numpy as np

VIGNETTES = Path(__file__).parent.parent / "vignettes"


def run(name):
    """All that the Python blocks of a page define."""
    text = (VIGNETTES / f"{name}.md").read_text("utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    names = {}
    for block in blocks:
        code = re.sub(r"^steps = None\b", "steps = 2", block, flags=re.MULTILINE)
        exec(compile(code, f"{name}.md", "exec"), names)
    assert names["steps"] == 2
    return names


def crossentropies(labels, logits):
    """Of each label, [n, t], and logits [n, t, C]: the definition, in long double."""
    x = np.asarray(logits, np.longdouble)
    targets = np.take_along_axis(x, np.asarray(labels)[..., None], -1)[..., 0]
    return np.log(np.exp(x).sum(axis=-1)) - targets


def the_sparse_loss(names):
    """Every form of the loss gives one curve; a second fit goes on where the first one stopped."""
    X, new_model, fit = names["X"], names["new_model"], names["fit"]

    def value(model):
        return float(crossentropies(X, model.predict(X, verbose=0)).sum())

    curves = names["curves"]
    assert len(curves) == 6
    model = new_model()
    weights = model.get_weights()
    assert abs(value(model) - 10 * np.log(6)) < 0.01
    for form, curve in curves.items():
        assert curve.shape == (2,), form
        np.testing.assert_allclose(curve, curves["integers"], rtol=1e-6, err_msg=form)
    np.testing.assert_allclose(curves["integers"][0], value(model), rtol=1e-6)
    assert set(names["correct"].values()) == {names["correct"]["integers"]}
    assert names["shapes"] == {(10, 6)}

    # The page's fits again, and the definition after each of their steps.
    expected = []
    for _ in range(4):
        expected.append(value(model))
        fit(model, names["keras_sparse"], X, epochs=1)
    assert expected == sorted(expected, reverse=True)
    found = np.concatenate([names["first_curve"], names["second_curve"]])
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_allclose(np.concatenate(names["exchanged"]), expected, rtol=1e-6)
    np.testing.assert_allclose(names["in_one"], expected, rtol=1e-6)
    np.testing.assert_allclose(names["between"], expected[2], rtol=1e-6)

    # The same seed, the same weights; another seed, others; a mean at a tenfold rate, the sum.
    for weight, again in zip(weights, new_model().get_weights(), strict=True):
        assert weight.dtype == "float64"
        np.testing.assert_array_equal(weight, again)
    assert any((w != v).any() for w, v in zip(weights, new_model(0).get_weights(), strict=True))
    np.testing.assert_allclose(names["ten_fold"], curves["integers"], rtol=1e-6)
    assert names["slow"][1] > names["ten_fold"][1]
    assert sorted(names["edge"]) == [(rate, k) for rate in (0.3, 1.0, 3.0) for k in range(3)]


def handwritten_digits(page):
    """Equal fits with all three losses; accuracies and losses of each digit as Keras's."""
    keras, ours, steps = page["keras"], page["ours"], 2 * 4  # of four epochs
    assert len(page["printed"].output_shape) == 4
    assert ours.model.output_shape == (None, 10)

    starts = [page["new_network"]().get_weights() for _ in range(2)]
    assert all(map(np.array_equal, *starts))
    assert not any(map(np.array_equal, starts[0][::2], ours.model.get_weights()[::2]))
    for fit in page["fits"].values():
        assert len(fit.losses) == steps
        np.testing.assert_allclose(fit.losses, ours.losses, rtol=0, atol=1e-6)
        np.testing.assert_allclose(fit.p, ours.p, rtol=0, atol=1e-6)
        assert fit.accuracy == ours.accuracy
        accuracy = next(fit.history[name] for name in fit.history if "accuracy" in name)
        assert accuracy == ours.history["ours"]
    assert len(page["single"].losses) == 2
    assert page["single_gap"].max() < 1e-5
    assert np.array_equal(np.float32(ours.losses), ours.losses)  # as the page says of Keras
    assert ours.losses[-1] < page["slow"].losses[-1] - 0.1

    p, y, losses = page["p"], page["y_test"], page["losses"]
    assert losses.shape == y.shape == (256,)
    assert np.array_equal(page["correct"], page["by_keras"])
    by_keras = keras.losses.SparseCategoricalCrossentropy()(y, p)
    assert abs(losses.mean() - float(by_keras)) < 1e-6
    assert page["confusion"].sum() == len(y)
    assert np.trace(page["confusion"]) == page["correct"].sum()
    assert np.trace(page["mistakes"]) == 0
    assert np.array_equal(losses[page["worst"]], np.sort(losses)[::-1][:12])

    assert page["one_hot"].nbytes == 80 * page["y"].nbytes
    keras_sparse = keras.losses.SparseCategoricalCrossentropy()
    taken = [page["allocated"](loss, y) for loss in (page["loss"], keras_sparse)]
    assert p.nbytes <= taken[0] < 2 * p.nbytes < taken[1]


def shakespeare(page):
    """Equal curves, shapes, the stateful model equal to the other, and baselines by hand."""
    X, Y, X_held, Y_held = (page[name] for name in ("X", "Y", "X_held", "Y_held"))
    codes = np.array([*map(ord, page["text"])])
    assert [*map(ord, page["text"][:300])] == [*X.ravel()[:300]]
    assert (X.ravel()[1:] == Y.ravel()[:-1]).all()
    assert X.shape == Y.shape == (len(X), 100)
    assert Y.dtype == np.uint8
    assert not set(map(bytes, X_held)) & set(map(bytes, X))
    assert page["times"] == 256 * 8

    counts = np.full((256, 256), 0.1)
    for pair in itertools.pairwise(codes[: len(codes) * 9 // 10]):
        counts[pair] += 1
    chance = (counts / counts.sum(1, keepdims=True))[X_held, Y_held]
    assert np.isclose(page["bigram"].perplexity, np.exp(-np.log(chance).mean()), rtol=1e-12)

    model, writer = page["model"], page["writer"]
    assert (model.input_shape, model.output_shape) == ((None, 100), (None, 100, 256))
    assert (writer.input_shape, writer.output_shape) == ((5, 1), (5, 1, 256))
    keras_own, ours = page["keras_own"], page["ours"]
    assert len(keras_own.losses) * page["epochs"] == len(ours.losses)
    assert len(ours.held_out) == page["epochs"]
    first = ours.losses[: len(keras_own.losses)]
    np.testing.assert_allclose(first, keras_own.losses, rtol=1e-6)
    ours, keras_own = ours.held_out, keras_own.held_out
    assert np.isclose(ours[0].perplexity, keras_own[0].perplexity, rtol=1e-5)
    assert abs(ours[0].accuracy() - keras_own[0].accuracy()) < 1e-4
    p = model.predict(X_held, verbose=0).astype("f8")
    chance = np.take_along_axis(p, Y_held[..., None].astype(int), 2)
    assert np.isclose(ours[-1].perplexity, np.exp(-np.log(chance).mean()), rtol=1e-5)
    assert min(state.perplexity for state in ours) < 256 / 4  # it has learned something

    texts = np.array([[*map(ord, page["seed"] + text)] for text in page["texts"]])
    assert texts.shape == (5, len(page["seed"]) + 240)
    assert len({*page["texts"]}) == 5
    assert set("".join(page["texts"])) <= set(page["text"])
    for rows in (page["five"], texts[:, 100:200]):
        page["reset_states"](writer)
        stepped = [writer.predict_on_batch(rows[:, [t]])[:, 0] for t in range(100)]
        at_once = model.predict(rows, verbose=0)
        np.testing.assert_allclose(np.stack(stepped, 1), at_once, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_less(1e-3, abs(page["again"] - page["at_once"]).max())


CHECKS = {
    "does-the-sparse-loss-train-more-slowly": the_sparse_loss,
    "handwritten-digits": handwritten_digits,
    "writing-like-shakespeare": shakespeare,
}


if __name__ == "__main__":
    matplotlib.use("agg")
    warnings.simplefilter("error", UserWarning)
    # Without SPARSE_XENT_DATA and a network a page takes the smaller data.
    warnings.filterwarnings("ignore", "Keras could not load", UserWarning)
    Path("figures").mkdir(exist_ok=True)
    CHECKS[sys.argv[1]](run(sys.argv[1]))
