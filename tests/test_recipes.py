"""The recipes of docs/recipes.md: each is run as it is printed, and gives what it says."""

import importlib.util
import re
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, environment, require_peer
from test_readme import python_blocks, wrong

PAGE = (ROOT / "docs/recipes.md").read_text("utf-8")
RECIPES = dict(part.split("\n", 1) for part in re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:])
NEEDS = {
    "XGBoost": "xgboost",
    "LightGBM": "lightgbm",
    "scikit-learn: a scorer": "sklearn",
    "torch: in place of cross_entropy": "torch",
}


#: Run in a process of its own: Keras picks its backend once a process, and a model is saved.
APART = "Keras"


@pytest.mark.parametrize("recipe", [recipe for recipe in RECIPES if recipe != APART])
def test_a_recipe_comes_out_as_written(recipe):
    if recipe in NEEDS:
        require_peer(NEEDS[recipe])
    assert python_blocks(RECIPES[recipe])
    assert wrong(RECIPES[recipe]) == ""


def test_the_recipe_for_keras_comes_out_as_written(tmp_path):
    for name in ("keras", "torch"):
        if importlib.util.find_spec(name) is None:
            require_peer(name)
    code = "from test_recipes import *; print(wrong(RECIPES[APART]), end='')"
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**environment(), "KERAS_BACKEND": "torch", "KERAS_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout == ""
    assert python_blocks(RECIPES[APART])


def test_every_recipe_is_known_and_readme_leads_to_them():
    assert {*NEEDS, APART} < set(RECIPES)
    assert "](docs/recipes.md)" in (ROOT / "README.md").read_text("utf-8")


def test_the_softmax_regression_is_scikit_learns():
    linear = pytest.importorskip("sklearn.linear_model", reason="sklearn is not installed")
    ((code, _),) = python_blocks(RECIPES["SciPy: a softmax regression"])
    names = {}
    exec(compile(code, "recipes.md", "exec"), names)
    X, y, fit = names["X"], names["y"], names["fit"]
    model = linear.LogisticRegression(
        C=1 / (0.01 * len(y)), fit_intercept=False, tol=1e-8, max_iter=1000
    )
    np.testing.assert_allclose(fit.x.reshape(4, 5).T, model.fit(X, y).coef_, atol=2e-3)
