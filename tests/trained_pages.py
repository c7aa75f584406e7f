"""Runs the Python blocks of a vignette that trains models, for two steps an epoch, and checks them.

    KERAS_BACKEND=torch python tests/trained_pages.py NAME

The blocks are those of the page as it is shown, but for its line `steps = None`; figures go to
figures/ in the current folder. Each page has a function in CHECKS, which is given all that the
blocks defined.
"""

import re
import sys
from pathlib import Path

import matplotlib
import numpy as np

VIGNETTES = Path(__file__).parent.parent / "vignettes"


def run(name):
    """All that the Python blocks of a page define."""
    text = (VIGNETTES / f"{name}.md").read_text("utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert "\nsteps = None" in "\n".join(blocks)
    names = {}
    for block in blocks:
        code = re.sub(r"^steps = None\b", "steps = 2", block, flags=re.MULTILINE)
        exec(compile(code, f"{name}.md", "exec"), names)
    return names


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


CHECKS = {"handwritten-digits": handwritten_digits}


if __name__ == "__main__":
    matplotlib.use("agg")
    Path("figures").mkdir(exist_ok=True)
    CHECKS[sys.argv[1]](run(sys.argv[1]))
