"""The recipes of docs/recipes.md: each is run as it is printed, and gives what it says."""

import re

import numpy as np
import pytest
from conftest import ROOT, require_peer
from test_readme import python_blocks, wrong

PAGE = (ROOT / "docs/recipes.md").read_text("utf-8")
RECIPES = dict(part.split("\n", 1) for part in re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:])
NEEDS = {"XGBoost": "xgboost", "LightGBM": "lightgbm", "scikit-learn: a scorer": "sklearn"}


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_comes_out_as_written(recipe):
    if recipe in NEEDS:
        require_peer(NEEDS[recipe])
    assert python_blocks(RECIPES[recipe])
    assert wrong(RECIPES[recipe]) == ""


def test_every_recipe_is_known_and_readme_leads_to_them():
    assert set(NEEDS) < set(RECIPES)
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
