"""Runs the Python blocks of a vignette that trains models, for two steps an epoch, and checks them.

    KERAS_BACKEND=torch python tests/trained_pages.py NAME

The blocks are those of the page as it is shown, but for its line `steps = None`; figures go to
figures/ in the current folder. Each page has a function in CHECKS, which is given all that the
blocks defined.
"""

import itertools
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


CHECKS = {"writing-like-shakespeare": shakespeare}


if __name__ == "__main__":
    matplotlib.use("agg")
    Path("figures").mkdir(exist_ok=True)
    CHECKS[sys.argv[1]](run(sys.argv[1]))
