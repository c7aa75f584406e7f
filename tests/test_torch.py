"""torch's tensors on the CPU: nothing is copied, and gradients are torch's in every way it asks.

What holds for every library's tensors is in `test_libraries`; CUDA's are in `test_cuda_host`.
"""

from __future__ import annotations

import subprocess
import sys
import textwrap
import tracemalloc
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conftest import REDUCTIONS, environment, require_peer
from test_one_way import check

import sparse_xent as sx

losses_of = sx.loss_sparse_categorical_crossentropy
LOSS = sx.SparseCategoricalCrossentropy(from_logits=True)
WIDE = sx.SparseCategoricalCrossentropy(from_logits=True, dtype="float64")


@pytest.fixture
def torch() -> Any:
    return require_peer("torch")


def case(torch: Any, rows: int = 6, classes: int = 4, dtype: str = "float64") -> Any:
    """Labels and logits."""
    rng = np.random.default_rng(rows)
    x = torch.from_numpy(rng.normal(size=(rows, classes))).to(getattr(torch, dtype))
    return torch.from_numpy(rng.integers(0, classes, rows)), x


# ---- memory -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("turned", [False, True])
def test_scores_are_not_copied(torch: Any, dtype: str, turned: bool) -> None:
    """NumPy allocates nothing but results; what torch might, the slow test below sees."""
    x = torch.zeros((1000, 2000) if turned else (2000, 1000), dtype=getattr(torch, dtype))
    x = x.T if turned else x
    y = torch.zeros(2000, dtype=torch.int64)
    LOSS(y, x)
    losses_of(y, x, True)
    LOSS.value_and_grad(y, x, out=x.clone())
    sx.config_set_threads(1)  # another thread allocates its scratch when it first helps
    try:
        tracemalloc.start()
        LOSS(y, x)
        losses_of(y, x, True)
        value, out = LOSS.value_and_grad(y, x, out=x)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    finally:
        sx.config_set_threads(None)
    assert peak < 200_000  # of 4 MB and more
    assert out is x
    assert float(x[0, 0]) < 0
    assert value.item() == pytest.approx(np.log(1000), rel=1e-6)


@pytest.mark.slow
def test_scores_are_not_copied_by_torch_either() -> None:
    code = """
        import torch, sparse_xent as sx
        def status(key):
            line = next(l for l in open("/proc/self/status") if l.startswith(key))
            return int(line.split()[1]) * 1024
        loss = sx.SparseCategoricalCrossentropy(from_logits=True)
        x = torch.zeros(2**16, 1000).requires_grad_()
        y = torch.zeros(2**16, dtype=torch.int64)
        loss(y[:99], x[:99]).backward()
        x.grad = None
        before = status("VmRSS:")
        open("/proc/self/clear_refs", "w").write("5")  # the peak starts anew here
        loss(y, x).backward()
        print((status("VmHWM:") - before) / (x.numel() * 4))
    """
    said = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=environment(), capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert float(said.stdout) < 1.05  # the gradient, and nothing of its size beside


def test_results_are_tensors_of_their_own(torch: Any) -> None:
    y, x = case(torch)
    value, slope = LOSS.value_and_grad(y, x)
    assert value.shape == ()
    assert value.dtype == torch.float32
    assert slope.dtype == x.dtype
    assert losses_of(y[0], x[0], True).shape == ()
    slope.zero_()
    value.zero_()
    assert LOSS.value_and_grad(y, x)[1].abs().sum() > 0


# ---- out ----------------------------------------------------------------------------------------


def test_out_is_filled_and_returned(torch: Any) -> None:
    y, x = case(torch)
    want = WIDE.value_and_grad(y, x)[1]
    laid = torch.zeros(4, 6, dtype=torch.float64).T
    for out in (torch.empty_like(x), laid, x.clone()):
        assert WIDE.value_and_grad(y, x, out=out)[1] is out
        assert torch.allclose(out, want, rtol=1e-14)
    half = x.bfloat16()
    made = LOSS.value_and_grad(y, half)[1]
    assert LOSS.value_and_grad(y, half, out=half)[1] is half
    assert torch.equal(half, made)


OUTS: dict[str, tuple[Callable[[Any, Any], Any], str]] = {
    "an array": (lambda torch, x: x.numpy(), "out must be an array of y_pred's library"),
    "another dtype": (lambda torch, x: x.float(), "out must be of dtype float64"),
    "another shape": (lambda torch, x: x.T, "out must have y_pred's shape"),
    "repeated": (lambda torch, x: x[:1].expand(6, 4), "out must hold every element once"),
    "sparse": (lambda torch, x: x.to_sparse(), "out must be dense"),
    "meta": (lambda torch, x: x.to("meta"), "out must hold values"),
    "negated": (
        lambda torch, x: torch.complex(x, x).conj().imag,
        r"out must hold its values, .*pass out\.resolve_neg\(\)",
    ),
}


@pytest.mark.parametrize("name", OUTS)
def test_an_out_that_does_not_fit_is_refused(torch: Any, name: str) -> None:
    y, x = case(torch)
    make, words = OUTS[name]
    before = x.clone()
    with pytest.raises((TypeError, ValueError), match=f"^{words}"):
        WIDE.value_and_grad(y, x, out=make(torch, x))
    assert torch.equal(x, before)


def test_scores_that_are_negated_when_they_are_read_take_no_gradient(torch: Any) -> None:
    y, x = case(torch)
    view = torch.complex(x, x).conj().imag
    with pytest.raises(TypeError, match=r"^out must hold its values, .*pass out\.resolve_neg\(\)"):
        WIDE.value_and_grad(y, view, out=view)
    assert torch.equal(WIDE(y, view), WIDE(y, -x))


def test_an_out_that_overlaps_is_refused(torch: Any) -> None:
    y, _ = case(torch)
    room = torch.zeros(40, dtype=torch.float64)
    with pytest.raises(ValueError, match="out must be y_pred itself or not overlap it"):
        WIDE.value_and_grad(y, room[:24].view(6, 4), out=room[1:25].view(6, 4))
    labels, scores = room[:6].view(torch.int64), torch.zeros(6, 4, dtype=torch.float64)
    with pytest.raises(ValueError, match="out must not overlap y_true"):
        WIDE.value_and_grad(labels, scores, out=room[:24].view(6, 4))


# ---- gradients ----------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("kind", ["logits", "after", "before", "never"])
def test_gradcheck_holds(torch: Any, reduction: str | None, kind: str) -> None:
    y, x = case(torch)
    options = {"from_logits": True} if kind == "logits" else {"normalize": kind}
    x = x if kind == "logits" else torch.softmax(x, -1)
    w = torch.linspace(0, 1, 6, dtype=torch.float64)
    loss = sx.SparseCategoricalCrossentropy(
        **options, reduction=reduction, dtype="float64", label_smoothing=0.1, ignore_class=2
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch's own
        assert torch.autograd.gradcheck(lambda t: loss(y, t, w), x.requires_grad_())
        assert torch.autograd.gradcheck(lambda t: losses_of(y, t, **options), x)


def test_a_step_of_training_is_torchs(torch: Any) -> None:
    y, x = case(torch, 32, 10, "float32")
    weight = torch.eye(10).requires_grad_()
    LOSS(y, x @ weight).backward()
    found, weight.grad = weight.grad, None
    torch.nn.functional.cross_entropy(x @ weight, y).backward()
    assert torch.allclose(found, weight.grad, 1e-5, 1e-7)


def test_a_second_backward_pass_gives_a_gradient_of_its_own(torch: Any) -> None:
    y, x = case(torch)
    x.requires_grad_()
    value = WIDE(y, x)
    (first,) = torch.autograd.grad(value, x, retain_graph=True)
    want = first.clone()
    first.zero_()
    (second,) = torch.autograd.grad(value, x, retain_graph=True)
    assert torch.allclose(second, want, rtol=1e-14)
    (third,) = torch.autograd.grad(value, x, torch.tensor(2.0, dtype=torch.float64))
    assert torch.allclose(third, 2 * want, rtol=1e-14)
    value.detach_()
    for _ in range(2):
        WIDE(y, x).backward()
    assert torch.allclose(x.grad, 2 * want, rtol=1e-14)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_a_scaled_loss_of_float16_does_not_underflow(torch: Any, reduction: str | None) -> None:
    """As torch.amp.GradScaler has it: what is scaled is not rounded before."""
    y, x = case(torch, 4, 3, "float16")
    x[:, 1] = -17  # its probability, 4e-8, is no float16
    leaf = x.clone().requires_grad_()
    loss = sx.SparseCategoricalCrossentropy(from_logits=True, reduction=reduction)
    (loss(torch.zeros_like(y), leaf) * 65536).sum().backward()
    wide = x.double().requires_grad_()
    (loss(torch.zeros_like(y), wide) * 65536).sum().backward()
    assert torch.allclose(leaf.grad.double(), wide.grad, 2e-3, 0)


@pytest.mark.parametrize("upstream", [np.nan, np.inf, -2147483648.0])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_any_upstream_is_a_number(torch: Any, upstream: float, reduction: str | None) -> None:
    """NaN, and R's NA, are missing as weights; what is ignored stays 0 under them."""
    y, x = case(torch)
    y[1] = 3
    loss = sx.SparseCategoricalCrossentropy(
        from_logits=True, reduction=reduction, ignore_class=3, dtype="float64"
    )
    x.requires_grad_()
    (plain,) = torch.autograd.grad(loss(y, x, 2.0).sum(), x)
    (found,) = torch.autograd.grad((loss(y, x, 2.0) * upstream).sum(), x)
    zero = plain == 0
    assert zero[1].all()
    assert (found[zero] == 0).all()
    np.testing.assert_allclose(found[~zero].numpy(), (plain[~zero] * upstream).numpy(), 1e-14)


def test_numpys_labels_may_change_before_the_backward_pass(torch: Any) -> None:
    """torch notices no change of theirs: a copy is kept."""
    y, x = case(torch)
    x.requires_grad_()
    (want,) = torch.autograd.grad(losses_of(y, x, True).sum(), x)
    labels, weights = y.numpy().copy(), np.ones(6)
    losses = losses_of(labels, x, True)
    value = WIDE(labels, x, weights)
    labels[:] = (labels + 1) % 4
    weights[:] = 5
    assert torch.equal(torch.autograd.grad(losses.sum(), x)[0], want)
    (found,) = torch.autograd.grad(value * 6, x)
    assert torch.allclose(found, want, rtol=1e-13)


@pytest.mark.parametrize("changed", ["scores", "labels", "weights"])
@pytest.mark.parametrize("call", [WIDE, sx.SparseCategoricalCrossentropy(reduction=None)])
def test_tensors_changed_before_the_backward_pass_are_noticed(
    torch: Any, changed: str, call: Any
) -> None:
    y, x = case(torch)
    w = torch.ones(6)
    scores = torch.softmax(x.requires_grad_(), -1) * 1
    value = call(y, scores, w).sum()
    with torch.no_grad():
        {"scores": scores, "labels": y, "weights": w}[changed].mul_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.backward()


def test_a_gradient_written_into_the_scores_is_noticed(torch: Any) -> None:
    y, x = case(torch)
    scores = x.requires_grad_() * 1
    value = WIDE(y, scores)
    WIDE.value_and_grad(y, scores.detach(), out=scores.detach())
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.backward()


def test_without_gradients_there_is_no_graph(torch: Any) -> None:
    y, x = case(torch)
    x.requires_grad_()
    w = torch.ones(6, requires_grad=True)
    for off in (torch.no_grad, torch.inference_mode):
        with off():
            assert not WIDE(y, x, w).requires_grad
            assert not losses_of(y, x, True).requires_grad
    with torch.inference_mode():
        made = x * 1
        value, slope = WIDE.value_and_grad(y, made, out=made)
    assert slope is made
    assert torch.equal(value, WIDE(y, x).detach())
    assert not any(t.requires_grad for t in WIDE.value_and_grad(y, x))
    assert not sx.metric_sparse_categorical_accuracy(y, x).requires_grad
    assert sx.metric_sparse_categorical_crossentropy(y, x, True).requires_grad


# ---- second derivatives, torch.func, torch.compile ----------------------------------------------


@pytest.mark.filterwarnings("ignore:`torch.jit.script`:DeprecationWarning")  # torch's own
@pytest.mark.parametrize("name", ["jvp", "jacfwd", "hessian"])
def test_forward_mode_is_refused_in_words(torch: Any, name: str) -> None:
    y, x = case(torch)
    loss = sx.SparseCategoricalCrossentropy(from_logits=True)

    def of(x: Any) -> Any:
        return loss(y, x)

    with pytest.raises(NotImplementedError, match="^the loss has no forward-mode derivative here"):
        torch.func.jvp(of, (x,), (x,)) if name == "jvp" else getattr(torch.func, name)(of)(x)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_a_second_derivative_is_refused_not_wrong(torch: Any, reduction: str | None) -> None:
    y, x = case(torch)
    loss = sx.SparseCategoricalCrossentropy(from_logits=True, reduction=reduction)
    x.requires_grad_()
    (slope,) = torch.autograd.grad(loss(y, x).sum(), x, create_graph=True)
    assert torch.equal(slope.detach(), torch.autograd.grad(loss(y, x).sum(), x)[0])
    with pytest.raises(RuntimeError, match="^the loss has no second derivative here"):
        slope.square().sum().backward()
    with pytest.raises(RuntimeError, match="^the loss has no second derivative here"):
        torch.func.grad(lambda t: torch.func.grad(lambda u: loss(y, u).sum())(t).sum())(x.detach())


def test_forward_mode_is_refused_not_wrong(torch: Any) -> None:
    y, x = case(torch)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch's own
        with pytest.raises(NotImplementedError, match="jvp"):
            torch.func.jvp(lambda t: WIDE(y, t), (x,), (x,))
        forward = torch.autograd.forward_ad
        with forward.dual_level():
            dual = forward.make_dual(x, x)
            with pytest.raises((RuntimeError, NotImplementedError), match="jvp"):
                WIDE(y, dual)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_torch_func(torch: Any, reduction: str | None) -> None:
    y, x = case(torch)
    w = torch.linspace(0.5, 2, 6)
    loss = sx.SparseCategoricalCrossentropy(from_logits=True, reduction=reduction, dtype="float64")

    def total(t: Any) -> Any:
        return loss(y, t, w).sum() * 3

    leaf = x.clone().requires_grad_()
    (want,) = torch.autograd.grad(total(leaf), leaf)
    slope, value = torch.func.grad_and_value(total)(x)
    assert torch.allclose(slope, want, rtol=1e-14)
    assert torch.equal(value, total(x))
    assert torch.allclose(torch.func.jacrev(total)(x), want, rtol=1e-14)


def test_vmap(torch: Any) -> None:
    """Gradients of each sample, and batches along any axis, of scores or labels alone too."""
    y, x = case(torch, 5, 4)
    leaf = x.clone().requires_grad_()
    (want,) = torch.autograd.grad(losses_of(y, leaf, True).sum(), leaf)

    def one(t: Any, label: Any) -> Any:
        return losses_of(label, t, True)

    assert torch.equal(torch.func.vmap(one)(x, y), losses_of(y, x, True))
    found = torch.func.vmap(torch.func.grad(one))(x, y)
    assert torch.allclose(found, want, rtol=1e-14)
    stack = torch.stack([x, 2 * x, x - 1], 1)
    found = torch.func.vmap(lambda t: WIDE(y, t), in_dims=1)(stack)
    assert found.tolist() == [WIDE(y, stack[:, i]).item() for i in range(3)]
    labels = torch.stack([y, (y + 1) % 4])
    found = torch.func.vmap(lambda label: WIDE(label, x))(labels)
    assert found.tolist() == [WIDE(label, x).item() for label in labels]
    _, pulled_back = torch.func.vjp(lambda t: losses_of(y, t, True), x)
    (rows,) = torch.func.vmap(pulled_back)(torch.eye(5, dtype=torch.float64))
    assert torch.allclose(rows.sum(0), want, rtol=1e-14)


def test_what_no_rule_maps_is_refused(torch: Any) -> None:
    y, x = case(torch, 5, 4)
    words = "must hold values, got a Tensor that torch traces or wraps: under torch.func call the"
    with pytest.raises(TypeError, match=f"^y_pred {words} loss itself"):
        torch.func.vmap(lambda t: WIDE.value_and_grad(y, t)[1])(torch.stack([x, x]))
    x.requires_grad_()
    ups = torch.eye(5, dtype=torch.float64)
    with pytest.raises(TypeError, match=f"^grad_outputs {words} loss itself"):
        torch.autograd.grad(losses_of(y, x, True), x, ups, is_grads_batched=True)


COMPILED = """
    {first}
    import sparse_xent as sx
    import torch, warnings
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", "The .grad attribute")  # torch's own, at any break
    x, y = torch.randn(64, 10), torch.randint(0, 10, (64,))
    weight = torch.randn(10, 10, requires_grad=True)
    loss = sx.SparseCategoricalCrossentropy(from_logits=True)
    metric = sx.SparseCategoricalAccuracy()

    def an_object(x, y, weight):
        return loss(y, (x @ weight).relu()) * 2

    def a_function(x, y, weight):
        return sx.loss_sparse_categorical_crossentropy(y, (x @ weight).relu(), True).mean() * 2

    def a_metric_beside(x, y, weight):
        scores = (x @ weight).relu()
        metric.update_state(y, scores)
        return sx.SparseCategoricalCrossentropy(from_logits=True)(y, scores) * 2

    def backend(module, inputs):
        graphs.append([node.name for node in module.graph.nodes])
        return module.forward

    for step in (an_object, a_function, a_metric_beside):
        graphs = []
        value = torch.compile(step, backend=backend)(x, y, weight)
        value.backward()
        found, weight.grad = weight.grad, None
        want = step(x, y, weight)
        want.backward()
        assert torch.equal(value, want)
        assert torch.equal(found, weight.grad)
        weight.grad = None
        print(step.__name__, len(graphs), graphs[0][2:4], graphs[1][1:-1])
        torch._dynamo.reset()
        try:
            torch.compile(step, backend=backend, fullgraph=True)(x, y, weight)
        except torch._dynamo.exc.Unsupported as refusal:
            print("the kernels of sparse_xent are compiled already" in str(refusal))
"""


@pytest.mark.parametrize("first", ["pass", pytest.param("import torch", marks=pytest.mark.slow)])
def test_torch_compile_breaks_its_graph_and_nothing_else(first: str) -> None:
    """Whichever is imported first: the compiler looks into no call, and warns of none."""
    require_peer("torch")
    code = textwrap.dedent(COMPILED).format(first=first)
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "an_object 2 ['matmul', 'relu'] ['mul']",
        "True",
        "a_function 2 ['matmul', 'relu'] ['mean', 'mul']",
        "True",
        "a_metric_beside 2 ['matmul', 'scores'] ['mul']",
        "True",
    ]
    assert "sparse_xent" not in done.stderr


# ---- what is refused ----------------------------------------------------------------------------

ODD: dict[str, tuple[Callable[[Any, Any], Any], str]] = {
    "meta": (lambda torch, v: v.to("meta"), "must hold values, got a tensor on the device meta"),
    "sparse": (lambda torch, v: v.to_sparse(), r"must be dense, .*pass {}\.to_dense\(\)"),
    "float8": (
        lambda torch, v: v.to(torch.float8_e5m2),
        r"must be of a dtype that NumPy has, or bfloat16, .*float8_e5m2: pass {}\.float\(\)",
    ),
    "quantized": (
        lambda torch, v: torch.quantize_per_tensor(v.float(), 1.0, 0, torch.qint8),
        r"must be of a dtype that NumPy has, .*pass {}\.dequantize\(\)",
    ),
    "fake": (
        lambda torch, v: torch._subclasses.fake_tensor.FakeTensorMode().from_tensor(v),
        "must hold values, got a FakeTensor",
    ),
}


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("argument", ["y_true", "y_pred", "sample_weight"])
@pytest.mark.parametrize("taped", [False, True])
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_tensors_without_numbers_are_refused(
    torch: Any, kind: str, argument: str, taped: bool
) -> None:
    y, x = case(torch)
    sent = {"y_true": y, "y_pred": x, "sample_weight": torch.ones(6)}
    make, words = ODD[kind]
    sent[argument] = make(torch, sent[argument])
    if taped and argument != "y_pred":
        sent["y_pred"].requires_grad_()
    with pytest.raises(TypeError, match=f"^{argument} {words.format(argument)}"):
        WIDE(**sent)


@pytest.mark.parametrize("argument", ["y_true", "sample_weight"])
@pytest.mark.parametrize("taped", [False, True])
def test_labels_and_weights_that_require_gradients_are_refused(
    torch: Any, argument: str, taped: bool
) -> None:
    y, x = case(torch)
    sent = {"y_true": y, "y_pred": x.requires_grad_(taped), "sample_weight": torch.ones(6)}
    sent[argument] = sent[argument].double().requires_grad_()
    order = "labels come first, then scores; or " if argument == "y_true" else ""
    words = rf"^{argument} must not require gradients, .* here: {order}pass {argument}\.detach\(\)$"
    with pytest.raises(TypeError, match=words):
        WIDE(**sent)
    with pytest.raises(TypeError, match=words):
        WIDE.value_and_grad(**sent)


# ---- small calls --------------------------------------------------------------------------------


def small(torch: Any) -> Any:
    return torch.tensor([1, 2]), torch.tensor([[0.05, 0.95, 0.0], [0.1, 0.8, 0.1]])


def test_a_small_call_is_short(torch: Any) -> None:
    y, x = small(torch)
    loss = sx.SparseCategoricalCrossentropy()
    check(lambda: loss(y, x))
    check(lambda: losses_of(y, x))
    check(lambda: loss.value_and_grad(y, x))
    x.requires_grad_()
    check(lambda: loss(y, x), most_calls=50)  # a dozen of them are torch's
