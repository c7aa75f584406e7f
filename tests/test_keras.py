"""Keras 3 trains with our losses and metrics as with its own: values, weights, masks, saved models.

Keras picks its backend once a process, so each backend answers every question in one subprocess:
this file, run as a program. Only the answers travel. Three faces are asked: "keras", its own loss
and metrics; "classes", those of `sparse_xent.integrations.keras`; "objects", what
`loss_sparse_categorical_crossentropy()` and its like give, as R's page writes it.
"""

import doctest
import importlib.util
import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import sparse_xent as sx

#: Backend of Keras -> the `normalize` that its own loss has.
BACKENDS = {"torch": "before", "jax": "before", "tensorflow": "after"}
FACES = ("classes", "objects")
LOADED = "loaded"  # the argument of a process that loads the model which another one saved


# --- the answers, in Keras's process --------------------------------------------------------------

rng = np.random.default_rng(0)
N, T, C, WORDS = 32, 5, 4, 9
X = rng.normal(size=(N, 6)).astype("float32")
Y = rng.integers(0, C, N)
W = rng.uniform(0.5, 2, N).astype("float32")
TOKENS = rng.integers(1, WORDS, (N, T))
TOKENS[:, 4:] = TOKENS[:8, 2:] = 0  # what mask_zero leaves out
TAGS = rng.integers(0, C, (N, T))
TAG_WEIGHTS = rng.uniform(0.5, 2, (N, T)).astype("float32")
IGNORING: dict[str, Any] = {"ignore_class": [-100, 3], "label_smoothing": 0.1, "from_logits": True,
                            "class_weight": {0: 2.0, 1: 0.5}}  # fmt: skip


def faces(backend: str) -> dict[str, SimpleNamespace]:
    """What makes a loss or a metric, by face; each as its library names it."""
    import keras

    from sparse_xent.integrations import keras as classes

    normalize = {"normalize": BACKENDS[backend]}
    return {
        "keras": SimpleNamespace(
            axis=-1,  # the only one that it takes on JAX and TensorFlow
            loss=keras.losses.SparseCategoricalCrossentropy,
            soft=keras.losses.CategoricalCrossentropy,
            accuracy=keras.metrics.SparseCategoricalAccuracy,
            top=lambda k, **o: keras.metrics.SparseTopKCategoricalAccuracy(k, **o),
            nats=keras.metrics.SparseCategoricalCrossentropy,
            soft_accuracy=keras.metrics.CategoricalAccuracy,
        ),
        "classes": SimpleNamespace(
            axis=1,
            loss=lambda **o: classes.SparseCategoricalCrossentropy(**normalize, **o),
            soft=classes.CategoricalCrossentropy,
            accuracy=classes.SparseCategoricalAccuracy,
            top=classes.SparseTopKCategoricalAccuracy,
            nats=lambda **o: classes.SparseCategoricalCrossentropyMetric(**normalize, **o),
            soft_accuracy=classes.CategoricalAccuracy,
        ),
        "objects": SimpleNamespace(
            axis=1,
            loss=lambda **o: sx.loss_sparse_categorical_crossentropy(**normalize, **o),
            soft=sx.loss_categorical_crossentropy,
            accuracy=sx.metric_sparse_categorical_accuracy,
            top=lambda k, **o: sx.metric_sparse_top_k_categorical_accuracy(k=k, **o),
            nats=lambda **o: sx.metric_sparse_categorical_crossentropy(**normalize, **o),
            soft_accuracy=sx.metric_categorical_accuracy,
        ),
    }


def model(*layers: Any, **compiled: Any) -> Any:
    """A model that starts anew from the same weights."""
    import keras

    keras.utils.set_random_seed(1)
    made = keras.Sequential([layer() for layer in layers])
    made.compile("sgd", **compiled)
    return made


def plain(activation: str | None = None) -> list[Any]:
    from keras import layers

    return [lambda: layers.Input((6,)), lambda: layers.Dense(C, activation=activation)]


def tagger(axis: int = -1, mask: bool = True) -> list[Any]:
    """A score for each class at each token, on any class axis."""
    from keras import layers

    made: list[Any] = [
        lambda: layers.Input((T,)),
        lambda: layers.Embedding(WORDS, 8, mask_zero=mask),
        lambda: layers.Dense(C),
    ]
    return made if axis == -1 else [*made, lambda: layers.Permute((2, 1))]


def curves(made: Any, x: Any, y: Any, **options: Any) -> dict[str, list[float]]:
    """What training says of each epoch, and the weights at the end."""
    kept = made.fit(x, y, epochs=3, batch_size=8, shuffle=False, verbose=0, **options).history
    kept["weights"] = np.concatenate([w.ravel() for w in made.get_weights()]).tolist()
    return {key: list(map(float, values)) for key, values in kept.items()}


def of_labels(face: Any, scores: str, options: dict[str, Any]) -> Any:
    logits = {"from_logits": scores == "logits"}
    made = model(
        *plain(None if scores == "logits" else "softmax"),
        loss=face.loss(**logits),
        metrics=[face.accuracy(), face.top(2)],
        weighted_metrics=[face.accuracy(name="weighted"), face.nats(**logits)],
    )
    return curves(made, X, Y, **options)


WEIGHTS: dict[str, dict[str, Any]] = {
    "no weights": {},
    "sample_weight": {"sample_weight": W},
    "class_weight": {"class_weight": {0: 1.0, 1: 2.0, 2: 0.5, 3: 3.0}},
}
SEQUENCES = ("a mask", "a mask and weights", "an ignored class", "sum", "mean_with_sample_weight",
             "the second axis", "one-hot targets", "float labels")  # fmt: skip
REFUSED = ("an ignored class", "sum", "mean_with_sample_weight")  # of objects


def of_sequences(face: Any, how: str) -> Any:
    options: dict[str, Any] = {"sample_weight": TAG_WEIGHTS} if "mask and" in how else {}
    given: dict[str, Any] = {"from_logits": True}
    if how == "an ignored class":
        given["ignore_class"] = 2
    if how in ("sum", "mean_with_sample_weight"):
        given["reduction"] = how
        options = {"sample_weight": TAG_WEIGHTS}
    if how == "one-hot targets":
        made = model(*tagger(), loss=face.soft(from_logits=True, label_smoothing=0.1),
                     metrics=[face.soft_accuracy()])  # fmt: skip
        return curves(made, TOKENS, np.eye(C, dtype="float32")[TAGS], sample_weight=TAG_WEIGHTS)
    if how == "the second axis":
        loss = face.loss(**given) if face.axis == -1 else face.loss(**given, axis=1)
        return curves(model(*tagger(face.axis, mask=False), loss=loss), TOKENS, TAGS)
    made = model(*tagger(), loss=face.loss(**given), metrics=[face.accuracy()])
    y = TAGS.astype("float32") if how == "float labels" else TAGS
    return curves(made, TOKENS, y, **options)


def refused(action: Any) -> str:
    """The first line of what an action raises; what it gives where it raises nothing."""
    try:
        return f"not refused: {action()}"
    except (TypeError, ValueError) as error:
        return f"{type(error).__name__}: {error}".splitlines()[0]


def of_refusals(face: dict[str, Any]) -> Any:
    objects, fit = face["objects"], lambda **o: curves(model(*plain(), **o), X, Y)
    wrong = Y.copy()
    wrong[5] = C
    trained = model(*plain(), loss=face["classes"].loss(from_logits=True))
    return {
        "ignore_class": refused(lambda: fit(loss=objects.loss(ignore_class=[1, 2]))),
        "reduction": refused(lambda: fit(loss=objects.loss(reduction="sum"))),
        "metric": refused(
            lambda: fit(loss=objects.loss(), metrics=[objects.accuracy(ignore_class=1)])
        ),
        "called": refused(lambda: objects.accuracy()(Y, X)),
        "a bad label": refused(lambda: float(trained.evaluate(X, wrong, verbose=0))),
    }


def of_precision(face: dict[str, Any]) -> Any:
    """Values beyond the whole numbers of 16 bits, and the logits that they are of."""
    import keras

    found = {}
    y, w = np.arange(2040, 2056), np.arange(16.0, dtype="float32")
    for policy in ("mixed_float16", "mixed_bfloat16"):
        keras.mixed_precision.set_dtype_policy(policy)
        wide = [lambda: keras.layers.Input((6,)), lambda: keras.layers.Dense(3000)]
        for name in FACES:
            made = model(*wide, loss=face[name].loss(from_logits=True))
            found[f"{policy} {name}"] = made.evaluate(X[:16], y, sample_weight=w, verbose=0)
        halved = face["classes"].loss(from_logits=True, dtype=policy)
        made = model(*wide, loss=halved)
        found[f"{policy} loss"] = made.evaluate(X[:16], y, sample_weight=w, verbose=0)
        scores = keras.ops.cast(made(X[:16]), "float32")
        found[policy] = keras.ops.convert_to_numpy(scores).tolist()
    keras.mixed_precision.set_dtype_policy("float32")
    many = face["classes"].accuracy(dtype="float16")
    for _ in range(5):
        many.update_state(np.zeros(1000, int), np.eye(2, dtype="float32")[np.arange(1000) % 2])
    found["accuracy of 5000"] = float(many.result())
    return found


def of_ignored(face: dict[str, Any]) -> Any:
    """A mask, ignored classes, smoothing and two kinds of weights at once, and the scores."""
    y = TAGS.copy()
    y[3] = -100
    metrics = [face["classes"].accuracy(ignore_class=[-100, 3])]
    made = model(*tagger(), loss=face["classes"].loss(**IGNORING), weighted_metrics=metrics)
    values = made.evaluate(TOKENS, y, sample_weight=TAG_WEIGHTS, batch_size=N, verbose=0)
    # One weight a sample, where there are as many steps as samples.
    square = model(*tagger(), loss=face["classes"].loss(from_logits=True))
    samples = square.evaluate(TOKENS[:T], TAGS[:T], sample_weight=W[:T], verbose=0)
    return {
        "values": values,
        "samples": samples,
        "scores": made.predict(TOKENS, verbose=0).tolist(),
        "labels": np.where(TOKENS == 0, -100, y).tolist(),
    }


def of_saved(face: dict[str, Any], backend: str, folder: Path) -> Any:
    """The configs and the values of a model, and those of the one loaded in a new process."""
    made = model(
        *plain(),
        loss=face["classes"].loss(**IGNORING, name="mine"),
        metrics=[face["classes"].top(2, ignore_class={3, -100})],
        weighted_metrics=[face["classes"].accuracy(), face["classes"].nats(from_logits=True)],
    )
    made.fit(X, Y, verbose=0)
    made.save(folder / "model.keras")
    plainly = model(*plain(), loss=face["objects"].loss(from_logits=True))
    plainly.save(folder / "object.keras")
    ours = described(made), described(plainly)
    run = [sys.executable, __file__, backend, str(folder), LOADED]
    subprocess.run(run, check=True, timeout=120)
    return {"saved": ours, "loaded": json.loads((folder / "loaded.json").read_text())}


def described(made: Any) -> Any:
    values = made.evaluate(X, Y, sample_weight=W, verbose=0, return_dict=True)
    configs = [metric.get_config() for metric in getattr(made._compile_metrics, "metrics", [])]
    return [made.loss.get_config(), configs, {k: float(v) for k, v in values.items()}]


def load(folder: Path) -> None:
    import keras

    import sparse_xent.integrations.keras  # noqa: F401  # registers the classes

    custom = {"SparseCategoricalCrossentropy": sx.SparseCategoricalCrossentropy}
    made = keras.saving.load_model(folder / "model.keras")
    plainly = keras.saving.load_model(folder / "object.keras", custom_objects=custom)
    (folder / "loaded.json").write_text(json.dumps([described(made), described(plainly)]))


def of_examples() -> list[Any]:
    """What comes out otherwise than the docstrings say, and how many lines were run."""
    from sparse_xent.integrations import keras as classes

    wrong: list[str] = []
    runner, count = doctest.DocTestRunner(verbose=False), 0
    for test in doctest.DocTestFinder().find(classes):
        count += runner.run(test, out=wrong.append).attempted
    return ["".join(wrong), count]


def of_replicas(face: Any) -> Any:
    """Training on two replicas, whose gradients TensorFlow sums."""
    import tensorflow as tf

    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
        made = model(*plain(), loss=face.loss(from_logits=True), weighted_metrics=[face.accuracy()])
    return curves(made, X, Y, sample_weight=W)


def answer(backend: str, folder: Path) -> dict[str, Any]:
    """Everything that this file asks of one backend."""
    import keras

    assert keras.backend.backend() == backend
    if backend == "tensorflow":
        import tensorflow as tf

        tf.get_logger().setLevel("ERROR")  # a model each question, and no reason to warn
        two = [tf.config.LogicalDeviceConfiguration()] * 2
        tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], two)
    by_face, said = faces(backend), {}
    for name, face in by_face.items():
        for scores in ("logits", "probabilities"):
            for how, options in WEIGHTS.items():
                said[f"{name} {scores} {how}"] = of_labels(face, scores, options)
        for how in SEQUENCES:
            if name != "objects" or how not in REFUSED:
                said[f"{name} {how}"] = of_sequences(face, how)
        if backend == "tensorflow":
            said[f"{name} replicas"] = of_replicas(face)
    value = sx.SparseCategoricalCrossentropy(from_logits=True)(Y, keras.ops.convert_to_tensor(X))
    said["shape of a value"] = list(value.shape)
    said["examples"] = of_examples()
    said["refusals"] = of_refusals(by_face)
    said["precision"] = of_precision(by_face)
    said["ignored"] = of_ignored(by_face)
    said["saved"] = of_saved(by_face, backend, folder)
    sx.loss.called_by_keras = lambda: False  # type: ignore[attr-defined]
    said["unseen"] = of_labels(by_face["objects"], "logits", WEIGHTS["sample_weight"])
    return said


# --- the comparison -------------------------------------------------------------------------------


@cache
def asked(backend: str, folder: Path) -> dict[str, Any]:
    """All that a backend has to say, in one process of its own."""
    from conftest import require_peer

    for name in ("keras", backend):
        if importlib.util.find_spec(name) is None:  # Keras, imported, would bring TensorFlow along
            require_peer(name)
    settings = {
        "KERAS_BACKEND": backend,
        "KERAS_HOME": str(folder),
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "CUDA_VISIBLE_DEVICES": "-1",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    run = subprocess.run(
        [sys.executable, __file__, backend, str(folder)],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert run.returncode == 0, run.stderr[-4000:]
    found: dict[str, Any] = json.loads((folder / f"{backend}.json").read_text())
    return found


@pytest.fixture(
    scope="module",
    params=[pytest.param(b, marks=[] if b == "torch" else pytest.mark.slow) for b in BACKENDS],
)
def backend(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keras")


@pytest.fixture(scope="module")
def said(backend: str, folder: Path) -> dict[str, Any]:
    return asked(backend, folder)


def check_curves(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert set(ours) == set(theirs)
    for key in ours:
        atol = 1e-6 if key == "weights" else 0
        np.testing.assert_allclose(ours[key], theirs[key], rtol=1e-6, atol=atol, err_msg=key)


@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize("scores", ["logits", "probabilities"])
@pytest.mark.parametrize("how", WEIGHTS)
def test_training_goes_as_with_keras_s_own(said, face, scores, how):
    check_curves(said[f"{face} {scores} {how}"], said[f"keras {scores} {how}"])


@pytest.mark.parametrize(
    ("face", "how"),
    [(f, how) for how in SEQUENCES for f in FACES if f == "classes" or how not in REFUSED],
)
def test_sequences_go_as_with_keras_s_own(said, face, how):
    check_curves(said[f"{face} {how}"], said[f"keras {how}"])


def test_where_keras_is_not_seen_a_weighted_mean_is_wrong(said):
    """What the look at the calling function is for."""
    wrong, right = (said[k]["loss"] for k in ("unseen", "keras logits sample_weight"))
    assert np.abs(np.divide(wrong, right) - 1).max() > 1e-3


def test_the_docstrings_examples_come_out_as_written(said):
    wrong, lines = said["examples"]
    assert wrong == ""
    assert lines >= 6


def test_the_user_s_own_call_gives_one_value(said):
    assert said["shape of a value"] == []


@pytest.mark.parametrize("what", ["ignore_class", "reduction", "metric"])
def test_an_object_that_keras_cannot_serve_is_refused(said, what):
    message = said["refusals"][what]
    option = "ignore_class" if what == "metric" else what
    assert message.startswith(f"ValueError: {option} must be ")
    of = "Accuracy" if what == "metric" else "Crossentropy"
    assert f"pass sparse_xent.integrations.keras.SparseCategorical{of}(" in message
    assert message.endswith(")")


def test_a_metric_object_is_not_called(said):
    assert said["refusals"]["called"].startswith(
        "TypeError: a SparseCategoricalAccuracy is not called: update_state(y_true, y_pred)"
    )


def test_a_bad_label_is_refused_or_nan(said, backend):
    bad = said["refusals"]["a bad label"]
    if backend == "torch":
        assert bad.startswith("ValueError: y_true must hold")
        assert "(5,)" in bad
    else:
        assert bad == "not refused: nan"


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_labels_past_2048_are_right_in_mixed_precision(said, policy):
    x = np.array(said["precision"][policy])
    y, w = np.arange(2040, 2056), np.arange(16.0)
    right = np.mean(w * (np.log(np.exp(x).sum(1)) - x[np.arange(16), y]))
    for face in FACES:
        assert said["precision"][f"{policy} {face}"] == pytest.approx(right, rel=1e-6)
    digits = 2**-11 if policy == "mixed_float16" else 2**-8
    assert said["precision"][f"{policy} loss"] == pytest.approx(right, rel=digits)


def test_a_float16_metric_counts_past_2048(said):
    assert said["precision"]["accuracy of 5000"] == 0.5


def test_masks_and_ignored_classes_leave_the_mean(said):
    found = said["ignored"]
    y, x = np.array(found["labels"]), np.array(found["scores"], np.float32)
    loss = sx.SparseCategoricalCrossentropy(**IGNORING)
    accuracy = sx.SparseCategoricalAccuracy(ignore_class=[-100, 3])
    accuracy.update_state(y, x, TAG_WEIGHTS)
    expected = [loss(y, x, TAG_WEIGHTS), accuracy.result()]
    np.testing.assert_allclose(found["values"], expected, rtol=1e-6)


def test_one_weight_a_sample_weighs_samples_of_a_square_batch(said):
    found = said["ignored"]
    x = np.array(found["scores"], np.float32)[:T]
    y = np.where(TOKENS[:T] == 0, -100, TAGS[:T])
    loss = sx.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-100)
    assert found["samples"] == pytest.approx(loss(y, x, W[:T, None]), rel=1e-6)


def test_a_saved_model_is_loaded_in_a_new_process(said):
    saved, loaded = said["saved"]["saved"], said["saved"]["loaded"]
    assert loaded == saved
    loss, metrics, _ = loaded[0]
    assert loss["ignore_class"] == [-100, 3]
    assert loss["class_weight"] == {"0": 2.0, "1": 0.5}
    assert [m.get("k") for m in metrics][:1] == [2]


@pytest.mark.slow
@pytest.mark.parametrize("face", FACES)
def test_replicas_share_the_mean_as_with_keras_s_own(face, folder):
    found = asked("tensorflow", folder)
    check_curves(found[f"{face} replicas"], found["keras replicas"])


if __name__ == "__main__":
    asked_of, where = sys.argv[1], Path(sys.argv[2])
    if sys.argv[3:] == [LOADED]:
        load(where)
    else:
        (where / f"{asked_of}.json").write_text(json.dumps(answer(asked_of, where)))
