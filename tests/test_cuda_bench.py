"""`python -m benchmarks.gpu`, all of it, on a device that is not there.

So that the first run on real hardware finds out about the hardware. What the fake cannot say is
how fast anything is: times are the host's, and mean nothing.
"""

import json
import os
import subprocess
import sys
import time
import types
from pathlib import Path

import fake_cuda
import numpy as np
import pytest
from conftest import require_peer

ROOT = Path(__file__).parent.parent


@pytest.fixture
def torch():
    return require_peer("torch")


@pytest.fixture
def bench(torch, monkeypatch):
    """The benchmark's modules, and a machine that is the host."""
    gpu = fake_cuda.install(monkeypatch, fake_cuda.Gpu())
    fake_cuda.torch_on_the_host(monkeypatch, torch, gpu)
    from benchmarks.gpu import __main__ as main
    from benchmarks.gpu import correct, record, roofs, speed
    from benchmarks.gpu.machine import Cuda

    class Host(Cuda):
        """The machine's surface, on the host; what it launches is NumPy's."""

        device, bytes, rounds, calls = "cpu", 1 << 12, 2, 3
        multiprocessors, architecture = 2, "sm_90"
        compiled, there = 0, ("cupy",)

        def __init__(self):
            pass

        def versions(self):
            return {"device": "none", "torch": torch.__version__}

        def synchronise(self):
            gpu.wait("device")

        def free(self):
            pass

        def milliseconds(self, run, rounds):
            times = []
            for _ in range(rounds):
                start = time.perf_counter()
                run()
                times.append(1e3 * (time.perf_counter() - start))
            return times

        def captured(self, run):
            run()
            return run

        def beside(self, run):
            return run()

        def compile(self, function):
            type(self).compiled += 1
            return function

        def has(self, module):
            return module in self.there

        def spoken(self, tensor):
            return fake_cuda.Spoken(tensor.numpy())

        def packed(self, tensor):
            return fake_cuda.Packed(tensor.numpy())

        def tensor(self, array):
            return torch.from_numpy(array.numpy() if hasattr(array, "numpy") else array.get())

        def kernel(self, image, entry):
            assert image[:4] == b"\x7fELF"
            assert entry.encode() in image

            def launch(grid, block, x, words, to):
                if entry == "copy":
                    source = fake_cuda.memory(x, (words,), (16,), np.dtype("V16"))
                    fake_cuda.memory(to, (words,), (16,), np.dtype("V16"))[...] = source

            return launch

    fake_cuda.Cupy(monkeypatch)
    modules = {"main": main, "correct": correct, "record": record, "roofs": roofs, "speed": speed}
    return type("Bench", (), {**modules, "machine": Host(), "gpu": gpu})


def rows_of(folder):
    return [json.loads(line) for line in (folder / "gpu.jsonl").read_text("utf-8").splitlines()]


def few(monkeypatch, bench, every=37, widest=30_000):
    """Every 37th case, and the workloads of short rows, are enough to see that they run."""
    cases = list(bench.correct.cases())[::every]
    monkeypatch.setattr(bench.correct, "cases", lambda: iter(cases))
    small = [w for w in bench.speed.WORKLOADS if w.classes < widest]
    monkeypatch.setattr(bench.speed, "WORKLOADS", small)


def test_the_whole_of_it_runs_and_is_right(bench, monkeypatch, tmp_path, capsys):
    few(monkeypatch, bench)
    folder = tmp_path / "kept"
    status = bench.main.main(["--output", str(folder)], bench.machine)
    rows = rows_of(folder)
    assert [row for row in rows if row.get("ok") is False] == []
    assert status == 0
    assert {row["part"] for row in rows} == {
        "versions", "roof", "labels", "graph", "arrays", "correct", "host time", "time",
    }  # fmt: skip
    assert bench.machine.compiled == sum(w.from_logits for w in bench.speed.WORKLOADS)
    table = (folder / "gpu.md").read_text("utf-8")
    assert capsys.readouterr().out.endswith(table)
    for words in ("roof, read:", "| 1M x 1000 | forward |", "host time, value", "correct: "):
        assert words in table


def test_every_workload_and_part_can_be_asked_for_by_name(bench, monkeypatch, tmp_path):
    assert len({w.name for w in bench.speed.WORKLOADS}) == len(bench.speed.WORKLOADS)
    for workload in bench.speed.WORKLOADS:
        folder = tmp_path / workload.name.replace(" ", "")
        name = f"time {workload.name}"
        status = bench.main.main(["--only", name, "--output", str(folder)], bench.machine)
        times = [row for row in rows_of(folder) if row["part"] == "time"]
        assert {row["name"] for row in times if row["who"] == "ours"} == {workload.name}
        assert {row["verb"] for row in times} == {"forward", "forward + gradient", "in place"}
        assert status == 0


def test_liger_takes_part_where_it_is(bench, torch, monkeypatch, tmp_path):
    functional = types.ModuleType("liger_kernel.transformers.functional")
    functional.liger_cross_entropy = torch.nn.functional.cross_entropy
    for name in ("liger_kernel", "liger_kernel.transformers"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, functional.__name__, functional)
    monkeypatch.setattr(type(bench.machine), "there", ("liger_kernel",))
    few(monkeypatch, bench)
    bench.main.main(
        ["--only", "time", "--only", "arrays", "--output", str(tmp_path)], bench.machine
    )
    rows = rows_of(tmp_path)
    who = {row["name"] for row in rows if row.get("who") == "Liger" and "milliseconds" in row}
    assert "1M x 1000" in who
    assert "NCHW 64 x 21 x 512 x 512" not in who  # it knows rows only
    assert [row["name"] for row in rows if row["part"] == "left out"] == ["CuPy"]


def test_a_rival_that_fails_is_recorded_and_harms_nobody(bench, torch, monkeypatch, tmp_path):
    def fails(x, y, **asked):
        raise RuntimeError("CUDA out of memory\nand much more")

    few(monkeypatch, bench)
    monkeypatch.setattr(torch.nn.functional, "cross_entropy", fails)
    status = bench.main.main(["--only", "time 1M", "--output", str(tmp_path)], bench.machine)
    rows = rows_of(tmp_path)
    assert {row["error"] for row in rows if row.get("who") == "torch"} == {
        "RuntimeError: CUDA out of memory"
    }
    assert status == 0
    assert "out of memory" in (tmp_path / "gpu.md").read_text("utf-8")


# --- what goes wrong is seen ---------------------------------------------------------------------


def spoilt(monkeypatch, spoil):
    """Every launch does its work, and then `spoil(Work)`."""
    run = fake_cuda.Work._run

    def spoiling(work):
        run(work)
        spoil(work)

    monkeypatch.setattr(fake_cuda.Work, "_run", spoiling)


def first_loss(work):
    a = work.a
    return fake_cuda.memory(a.out, (1,), (8,), fake_cuda.BY_CODE[a.out_code]) if a.out else None


def off_by_a_little(work):
    loss = first_loss(work)
    if loss is not None:
        loss *= 1.1


def not_written(work):
    loss = first_loss(work)
    if loss is not None:
        loss[...] = np.nan


class OtherBits:
    calls = 0

    def __call__(self, work):
        loss = first_loss(work)
        if loss is not None:
            self.calls += 1
            loss *= 1 + 2e-7 * (self.calls % 2)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (off_by_a_little, "losses: off by 0.1"),
        (not_written, "losses: off by inf"),
        (OtherBits(), "losses: two calls gave different bits"),
    ],
)
def test_a_wrong_kernel_is_caught(bench, monkeypatch, tmp_path, spoil, said):
    cases = [bench.correct.Case((5, 100), -1, "C", "float32", "logits")]
    monkeypatch.setattr(bench.correct, "cases", lambda: iter(cases))
    spoilt(monkeypatch, spoil)
    assert bench.main.main(["--only", "correct", "--output", str(tmp_path)], bench.machine) == 1
    (row, _) = [row for row in rows_of(tmp_path) if row["part"] == "correct"]
    assert row["said"].startswith(said)
    assert f"wrong: float32, logits, (5, 100), axis -1, C: {said}" in (
        tmp_path / "gpu.md"
    ).read_text("utf-8")


def test_a_bad_label_that_is_not_recorded_is_caught(bench, monkeypatch, tmp_path):
    monkeypatch.setattr(fake_cuda.Work, "_record", lambda work, field, value: None)
    assert bench.main.main(["--only", "labels", "--output", str(tmp_path)], bench.machine) == 1
    rows = [row for row in rows_of(tmp_path) if row["part"] == "labels"]
    assert [row["ok"] for row in rows] == [False] * 4 + [True]


def test_a_graph_that_replays_nothing_is_caught(bench, monkeypatch, tmp_path):
    def captured(machine, run):
        run()
        return lambda: None

    monkeypatch.setattr(type(bench.machine), "captured", captured)
    assert bench.main.main(["--only", "graphs", "--output", str(tmp_path)], bench.machine) == 1


def test_a_copy_that_copies_nothing_is_no_roof(bench, monkeypatch, tmp_path):
    monkeypatch.setattr(
        type(bench.machine), "kernel", lambda machine, image, entry: lambda *launched: None
    )
    assert bench.main.main(["--only", "roofs", "--output", str(tmp_path)], bench.machine) == 1


# --- what is kept when the run ends early --------------------------------------------------------


def test_a_part_that_breaks_off_does_not_end_the_others(bench, monkeypatch, tmp_path):
    def breaks(machine, record):
        raise RuntimeError("an illegal memory access was encountered\nand so on")

    monkeypatch.setattr(bench.correct, "graphs", breaks)
    few(monkeypatch, bench)
    arguments = ["--only", "graphs", "--only", "host time", "--output", str(tmp_path)]
    assert bench.main.main(arguments, bench.machine) == 1
    broken, *others = [row for row in rows_of(tmp_path) if row["part"] != "versions"]
    assert broken["said"] == "RuntimeError: an illegal memory access was encountered"
    assert {row["part"] for row in others} == {"host time"}


def test_a_run_that_is_out_of_time_says_what_it_left_out(bench, monkeypatch, tmp_path):
    few(monkeypatch, bench)
    bench.main.main(["--seconds", "1", "--output", str(tmp_path)], bench.machine)
    left = {row["name"] for row in rows_of(tmp_path) if row["part"] == "left out"}
    assert {"roofs", "correct", "host time", "time 1M x 1000"} <= left
    assert "left out: roofs: out of time" in (tmp_path / "gpu.md").read_text("utf-8")


def test_checks_leave_the_time_that_the_times_need(bench, monkeypatch, tmp_path):
    few(monkeypatch, bench)
    record = bench.record.Record(100.0, tmp_path)
    record.started -= 60
    bench.correct.measure(bench.machine, record, 55.0)  # 40 are left, 55 are kept
    done, left = record.rows
    assert (done["cases"], done["ok"]) == (0, False)
    assert left["part"] == "left out"


def test_lines_are_kept_as_they_come_and_read_although_the_last_is_cut(bench, tmp_path):
    record = bench.record.Record(10.0, tmp_path)
    record.add("roof", "read", gigabytes_per_second=1.0)
    record.add("roof", "copy", gigabytes_per_second=2.0)
    file = tmp_path / "gpu.jsonl"
    assert bench.record.read(file) == record.rows
    file.write_text(file.read_text("utf-8")[:-9], "utf-8")
    assert bench.record.read(file) == record.rows[:1]


def test_a_miss_and_a_meeting_of_the_goal_are_kept_apart(bench, tmp_path):
    record = bench.record.Record(10.0)
    record.add("roof", "read", gigabytes_per_second=4000.0)
    said = {"verb": "forward", "written": False, "goal": 90, "rounds": 3}
    record.add("time", "a", who="ours", milliseconds=1.0, gigabytes_per_second=3700.0, **said)
    record.add("time", "a", who="torch", milliseconds=4.0, gigabytes_per_second=925.0, **said)
    record.add("time", "b", who="ours", milliseconds=1.0, gigabytes_per_second=3000.0, **said)
    shown = bench.record.tables(record)
    assert "| a | forward | 1.000 ms | 3700 | 92 | 90 | 4.00 x |" in shown
    assert "| b | forward | 1.000 ms | 3000 | **75** | 90 |  |" in shown


# --- without a GPU -------------------------------------------------------------------------------


def test_without_a_gpu_it_says_so_in_one_line(torch):
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu"],
        cwd=ROOT,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1
    assert result.stderr.startswith("benchmarks.gpu needs an NVIDIA GPU")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90", "sm_100"])
def test_the_roofs_kernels_compile_for_every_gpu(bench, architecture):
    images = bench.roofs.compiled(architecture)
    assert set(images) == {"read", "copy"}
    assert all(image[:4] == b"\x7fELF" for image in images.values())
