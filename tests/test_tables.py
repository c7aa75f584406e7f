"""A table of text is scored rightly or refused in one line; every way out that is named works."""

import csv
import io
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from sparse_xent import loss_sparse_categorical_crossentropy
from sparse_xent.__main__ import main
from sparse_xent.evaluation import FileError, evaluate
from sparse_xent.evaluation.readers import lines, tables

P = "0.7,0.3\n0.4,0.6\n0.9,0.1\n"
Y = "0\n1\n0\n"
RIGHT = -np.log([0.7, 0.6, 0.9]).mean()  # of Y and P
IDS = ["136060", "211333", "123396"]
TEXT = [line.split(",") for line in P.split()]


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(**files):
    for name, content in files.items():
        if content is not None:
            content = content if isinstance(content, bytes) else content.encode()
            Path(f"{name}.csv").write_bytes(content)


def table(*rows, sep=",", end="\n"):
    return "".join(sep.join(row) + end for row in rows)


def command(capsys, *options):
    """Exit status, mean loss and the message of the command."""
    status = main(["evaluate", "y.csv", "p.csv", "--json", *options])
    told = capsys.readouterr()
    if status == 0:
        return status, json.loads(told.out)["mean_loss"], told.err
    assert told.out == ""
    assert told.err.startswith("sparse-xent: error: ")
    assert told.err.count("\n") == 1
    return status, None, told.err


def scored(y, p, *, w=None, **options):
    write(y=y, p=p, w=w)
    options |= {"sample_weight": "w.csv"} if w is not None else {}
    return evaluate("y.csv", "p.csv", **options).mean_loss


def refusal(y, p, **options):
    with pytest.raises(FileError) as refused:
        scored(y, p, **options)
    message = str(refused.value)
    assert "\n" not in message
    assert len(message) < 500
    return message


# --- what is read ---------------------------------------------------------------------------------

QUOTED = table(*[[f'"{c}"' for c in row] for row in TEXT])
NAMED = {f'"{k}"': row for k, row in enumerate(TEXT, 1)}

READ = {
    "as it is": (Y, P),
    "text is a header": ("y\n" + Y, "a,b\n" + P),
    "quoted names": ('"y"\n' + Y, '"a","b"\n' + P),
    "a class named None": (Y, "None,Mild\n" + P),
    "a header of bytes that are not UTF-8": (Y, b"Gr\xf6\xdfe,b\n" + P.encode()),
    "a byte order mark": ("\ufeff" + Y, "\ufeffa,b\n" + P),
    "a byte order mark, no header": (Y, "\ufeff" + P),
    "NumPy's line of names": ("# y\n" + Y, "# a b\n" + P.replace(",", " ")),
    "CR": (Y.replace("\n", "\r"), P.replace("\n", "\r")),
    "CR LF": (Y.replace("\n", "\r\n"), ("a,b\n" + P).replace("\n", "\r\n")),
    "mixed line ends": (Y, P.replace("\n", "\r", 1).replace("0.1\n", "0.1\r\n")),
    "no last line end": (Y.rstrip(), P.rstrip()),
    "blank lines at the end": (Y + "\n\n", P + "\n \n\r\n"),
    "tabs": (Y, P.replace(",", "\t")),
    "semicolons": (Y, P.replace(",", ";")),
    "blanks": (Y, P.replace(",", "   ")),
    "commas and blanks": (Y, P.replace(",", " , ")),
    "commas and tabs": (Y, P.replace(",", ",\t")),
    "aligned": ("  0\n  1\n  0\n", "   a   b\n " + P.replace(",", "  ").replace("\n", "\n ")),
    "quoted numbers": ('"0"\n"1"\n"0"\n', QUOTED),
    "quoted numbers behind blanks": (Y, QUOTED.replace(",", ", ")),
    "exponents": (Y, "7e-1,3E-01\n4e-1,+.6\n0.9,1.e-1\n"),
    "write.csv2": ('"y"\n' + Y, '"a";"b"\n' + P.replace(",", ";").replace(".", ",")),
    "write.csv2, whole at first": (Y, "1;0\n0,4;0,6\n0,9;0,1\n"),
    "decimal commas and tabs": (Y, P.replace(",", "\t").replace(".", ",")),
    "decimal commas and blanks": (Y, P.replace(",", " ").replace(".", ",")),
    "quoted decimal commas": (Y, QUOTED.replace(",", ";").replace(".", ",")),
    "numbers under no name": (Y, "V1,V2\n" + P),
    "write.table": (
        '"x"\n"1" 0\n"2" 1\n"3" 0\n',
        '"a" "b"\n' + table(*[[k, *row] for k, row in NAMED.items()], sep=" "),
    ),
    "write.table, numbers for names": (
        Y,
        '"1" "2"\n' + table(*[[k, *row] for k, row in NAMED.items()], sep=" "),
    ),
    "write.table, unquoted": (
        "x\n1 0\n2 1\n3 0\n",
        "a b\n" + table(*[[k.strip('"'), *row] for k, row in NAMED.items()], sep=" "),
    ),
    "write.table, numbers for names, unquoted": (
        Y,
        "1 2\n" + table(*[[k.strip('"'), *row] for k, row in NAMED.items()], sep=" "),
    ),
    "write.table, names with blanks and commas": (
        Y,
        '"a" "b"\n"Mazda RX4" 0.7 0.3\n"Fiat, 128" 0.4 0.6\n"say ""x""" 0.9 0.1\n',
    ),
    "write.table of a part": (Y, '"a","b"\n"5",0.7,0.3\n"17",0.4,0.6\n"2",0.9,0.1\n'),
}


@pytest.mark.parametrize("name", READ)
def test_what_is_plain_is_read(name):
    if name == "write.csv2, whole at first":
        expected = -np.log([1, 0.6, 0.9]).mean()
        assert scored(*READ[name]) == pytest.approx(expected, abs=1e-6)
    else:
        assert scored(*READ[name]) == pytest.approx(RIGHT, rel=1e-6)


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"])
@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 1 << 20])
def test_lines_are_counted_whatever_ends_them(end, chunk, monkeypatch):
    monkeypatch.setattr(lines, "_CHUNK", chunk)
    write(y=Y.replace("\n", end) + end * 3, p=("a,b\n" + P).replace("\n", end))
    assert evaluate("y.csv", "p.csv").scored == 3


def test_labels_of_a_tsv_file():
    write(y=Y)
    Path("p.tsv").write_text("a\tb\n" + P.replace(",", "\t"))
    assert evaluate("y.csv", "p.tsv").mean_loss == pytest.approx(RIGHT, rel=1e-6)


# --- a header of numbers --------------------------------------------------------------------------


@pytest.mark.parametrize("header", ["0,1", "1,2", "0.0,1.0", " 1 , 2", "3,5", "7,2"])
@pytest.mark.parametrize("label", [None, "y", '"y"'])
def test_the_rows_of_the_labels_tell_whether_numbers_are_names(header, label):
    y, p = Y if label is None else f"{label}\n{Y}", f"{header}\n{P}"
    assert scored(y, p) == pytest.approx(RIGHT, rel=1e-6)
    np.save("y.npy", [0, 1, 0])
    assert evaluate("y.npy", "p.csv").mean_loss == pytest.approx(RIGHT, rel=1e-6)
    np.save("y.npy", [0, 0, 1, 0])  # it is a row
    assert evaluate("y.npy", "p.csv", from_logits=True).scored == 4
    if label is None:
        assert "--header yes or --header no" in refusal(y + "1\n", p, from_logits=True)
    else:
        assert scored(y + "1\n", p, from_logits=True) == scored(
            y + "1\n", "a,b\n" + p, from_logits=True
        )


@pytest.mark.parametrize("label", ["0", "1", "0.0"])
def test_the_rows_of_the_predictions_tell_whether_a_number_is_a_name(label):
    for p in (P, "a,b\n" + P):
        assert scored(f"{label}\n{Y}", p) == pytest.approx(RIGHT, rel=1e-6)
    np.savetxt("p.txt", np.loadtxt(P.splitlines(), delimiter=","))
    np.save("p.npy", np.loadtxt("p.txt"))
    assert evaluate("y.csv", "p.npy").mean_loss == pytest.approx(RIGHT, rel=1e-6)


@pytest.mark.parametrize("label", ["0", "1"])
@pytest.mark.parametrize("header", ["0,1", "1,2", "3,5", "7,2", "-1,1"])
def test_where_both_may_begin_with_names_the_question_is_asked(label, header, capsys):
    write(y=f"{label}\n{Y}", p=f"{header}\n{P}")
    status, _, message = command(capsys)
    assert status == 2
    assert "--header yes or --header no" in message
    assert command(capsys, "--header", "yes")[1] == pytest.approx(RIGHT, rel=1e-6)
    status, loss, _ = command(capsys, "--header", "no", "--logits")
    assert (status, loss) == (0, pytest.approx(loss))
    assert loss != pytest.approx(RIGHT, rel=1e-2)


def test_a_name_that_may_be_a_label_is_asked_about_where_the_predictions_look_named():
    message = refusal("2\n0\n1\n1\n", "0,1,2\n0.1,0.2,0.7\n0.1,0.7,0.2\n0.2,0.7,0.1\n")
    assert "--header yes or --header no" in message


def test_what_r_quotes_is_a_name():
    assert scored('"1"\n' + Y, '"1","2"\n' + P) == pytest.approx(RIGHT, rel=1e-6)
    assert scored("0\n" + Y, '"1","2"\n' + P) == pytest.approx(RIGHT, rel=1e-6)


def test_the_rows_of_the_weights_tell_it_too():
    w = "0\n0.5\n0.25\n0.25\n"  # a Series of pandas
    expected = -np.average(np.log([0.7, 0.6, 0.9]), weights=[0.5, 0.25, 0.25])
    assert scored(Y, P, w=w) == pytest.approx(expected, rel=1e-6)
    assert scored("0\n" + Y, "0,1\n" + P, w="w\n0.5\n0.25\n0.25\n") == pytest.approx(
        expected, rel=1e-6
    )


def test_one_row_of_numbers_is_a_row():
    assert scored("0\n", "0,1\n", from_logits=True) == pytest.approx(np.log1p(np.e), rel=1e-6)


def test_text_over_text_may_be_a_row():
    """A first column of names may stand over 0, 1, ... as well as be the names of rows."""
    y, p = "k,0\nb,1\nc,0\n", "k,0,1\nb,0.3,0.7\nc,0.4,0.6\n"
    assert "--header yes or --header no" in refusal(y, p, label_column=1, drop=[0])
    two = scored(y, p, label_column=1, drop=[0], header="yes")
    assert two == pytest.approx(-np.log([0.7, 0.4]).mean(), rel=1e-6)


def test_a_transposed_table_says_what_it_needs():
    p = np.array([[0.7, 0.4, 0.9], [0.3, 0.6, 0.1]])
    write(p="0,1,2\n" + table(*p.astype(str)))
    np.save("y.npy", [0, 1, 0])
    with pytest.raises(FileError, match="--header yes or --header no"):
        evaluate("y.npy", "p.csv", axis=0)
    got = evaluate("y.npy", "p.csv", axis=0, header="yes")
    assert got.mean_loss == pytest.approx(RIGHT, rel=1e-6)


# --- columns that are no classes ------------------------------------------------------------------


def with_column(position, values, name=None, names=("a", "b")):
    """The predictions with another column, and the name of each if that has one."""
    rows = [[*row[:position], v, *row[position:]] for row, v in zip(TEXT, values, strict=True)]
    if name is not None:
        rows.insert(0, [*names[:position], name, *names[position:]])
    return table(*rows)


@pytest.mark.parametrize("position", [0, 1, 2])
@pytest.mark.parametrize(
    "name", [None, "customer", "id", "ID", "index", "rowname", "row.names", "", '""', "userId"]
)
@pytest.mark.parametrize(
    "values",
    [IDS, [f"{v}.0" for v in IDS], ["0", "1", "2"], ["1", "2", "3"], ["7", "7", "7"]],
    ids=["whole", "floats", "from 0", "from 1", "constant"],
)
def test_an_identifier_is_refused_and_the_ways_out_work(position, name, values, capsys):
    write(y=Y, p=with_column(position, values, name))
    status, _, message = command(capsys)
    assert status == 2
    assert (f"column {name!r}" in message) or name in (None, "", '""')
    ways = re.findall(r"--(?:drop|columns) (?:'[^']*'|\S+)", message)
    assert len(ways) == 2
    for way in ways:
        options = shlex.split(way.rstrip(",:"))
        assert command(capsys, *options)[:2] == (0, pytest.approx(RIGHT, rel=1e-6))


@pytest.mark.parametrize("header", [",a,b", '"","a","b"', ",0,1", '"","1","2"', "id,0,1"])
@pytest.mark.parametrize("names", [["1", "2", "3"], ['"1"', '"2"', '"3"'], ["x", "y", "z"]])
def test_row_names_with_a_name_are_refused_by_it(header, names, capsys):
    write(y=Y, p=header + "\n" + with_column(0, names))
    status, _, message = command(capsys)
    assert status == 2
    assert "row.names = FALSE" in message or header.startswith("id")
    [drop] = re.findall(r"--drop (\S+),", message)
    assert command(capsys, "--drop", *shlex.split(drop))[1] == pytest.approx(RIGHT, rel=1e-6)


def test_identifiers_of_text_are_named_and_can_be_left_out(capsys):
    for p, way in [
        (with_column(0, ["x1", "x2", "x3"], "image"), "image"),
        (with_column(0, ["x1", "x2", "x3"]), "0"),
        (with_column(2, ["a,b", '"c,d"', "e"], "image").replace("a,b", '"a,b"', 2), "image"),
    ]:
        write(y=Y, p=p.replace('"a,b"', "a,b", 1) if p.startswith('"a,b"') else p)
        status, _, message = command(capsys)
        assert status == 2
        assert f"--drop {way}" in message
        assert command(capsys, "--drop", way)[1] == pytest.approx(RIGHT, rel=1e-6)


def test_labels_beside_the_scores_are_refused_though_they_are_0_and_1(capsys):
    write(y="truth,a,b\n" + with_column(0, ["0", "1", "0"]))
    Path("p.csv").write_bytes(Path("y.csv").read_bytes())
    status, _, message = command(capsys)
    assert status == 2
    assert "--label-column truth" in message
    status, _, message = command(capsys, "--label-column", "truth")
    assert status == 2
    assert "--drop truth" in message
    got = command(capsys, "--label-column", "truth", "--drop", "truth")
    assert got[:2] == (0, pytest.approx(RIGHT, rel=1e-6))


@pytest.mark.parametrize(
    ("y", "way"),
    [
        ("id,label\n11,0\n7,1\n5,0\n", "label"),
        ("label,id\n0,11\n1,7\n0,5\n", "label"),
        ("11,0\n7,1\n5,0\n", "1"),
        (",0\n0,0\n1,1\n2,0\n", "0"),
        ('"","x"\n"1",0\n"2",1\n"3",0\n', "x"),
        ("Id;Class\n4;0\n2;1\n9;0\n", "Class"),
    ],
)
def test_labels_beside_identifiers_are_found_by_the_option_named(y, way, capsys):
    write(y=y, p=P)
    status, _, message = command(capsys)
    assert status == 2
    assert f"--label-column {way}" in message
    assert command(capsys, "--label-column", way)[1] == pytest.approx(RIGHT, rel=1e-6)


def test_weights_beside_identifiers_are_found_by_the_option_named():
    w = "id,w\n4,0.5\n9,0.25\n2,0.25\n"
    assert "--weight-column w" in refusal(Y, P, w=w)
    expected = -np.average(np.log([0.7, 0.6, 0.9]), weights=[0.5, 0.25, 0.25])
    for column in ("w", "1", 1):
        assert scored(Y, P, w=w, weight_column=column) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("y", "p", "options"),
    [
        (Y, "1,0\n0,1\n1,0\n", {}),  # one-hot
        (Y, "a,b\n1,0\n0,1\n1,0\n", {}),
        (Y, "1,0,0\n0.4,0.6,0\n0.9,0.1,0\n", {}),  # a class that is never predicted
        (Y, "1,0.0\n1,0.6\n0,0.1\n", {}),  # certain of one class
        (Y, "3,1\n2,5\n7,0\n", {"from_logits": True}),  # whole logits
        (Y, "-3,1,4\n2,5,-9\n7,0,2\n", {"from_logits": True}),
        ("0\n1\n", "a,b\n0,5\n1,7\n", {"from_logits": True}),  # in order, but only two
        (Y, "a,b,c\n-inf,0.5,1\n-inf,1,2\n-inf,2,0.5\n", {"from_logits": True}),  # masked
        ("0\n1\n2\n", "0.7,0.2,0.1\n0.1,0.8,0.1\n0.2,0.2,0.6\n", {}),  # labels in order
        ("class_id\n" + Y, P, {}),
        (Y, "covid,valid\n" + P, {}),  # they end in id
    ],
)
def test_what_is_no_identifier_is_scored(y, p, options):
    write(y=y, p=p)
    header = int(p[0].isalpha())
    x = np.loadtxt(p.splitlines()[header:], delimiter=",", ndmin=2)
    labels = np.loadtxt([line for line in y.splitlines() if line.isdigit()], dtype=int)
    np.save("x.npy", x)
    np.save("t.npy", labels)
    assert scored(y, p, **options) == evaluate("t.npy", "x.npy", **options).mean_loss


@pytest.mark.parametrize("name", ["id", "Index", "row.names", "user_id", "Unnamed: 0"])
def test_a_name_alone_is_enough(name):
    for values in (["0", "1", "0"], ["0.1", "0.2", "0.3"]):
        assert f"column {name!r} whose name is" in refusal(Y, with_column(0, values, name))
    assert scored(Y, f"a,{name}\n{P}", columns=["a", name]) == pytest.approx(RIGHT, rel=1e-6)
    if name == "user_id":  # as class_id may be, beside nothing else
        assert scored(f"{name}\n{Y}", P) == pytest.approx(RIGHT, rel=1e-6)
    else:
        assert f"column {name!r}" in refusal(f"{name}\n{Y}", P)


def test_certain_predictions_beside_an_identifier_are_seen():
    p = "customer,a,b\n1001,1,0\n1007,0,1\n1003,1,0\n"
    assert "--drop customer" in refusal(Y, p)
    assert scored(Y, p, drop="customer") == pytest.approx(0, abs=1e-6)


def test_identifiers_are_found_however_the_file_is_cut(monkeypatch):
    """One fraction anywhere, or one number out of order, is enough to tell."""
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(3), 500)
    order = np.arange(500.0)
    ids = rng.permutation(10_000)[:500]
    late = np.r_[np.ones(499), 0.5]
    np.save("y.npy", np.zeros(500, int))
    for parsed in (8, 100, 1 << 18):
        monkeypatch.setattr(tables, "_PARSED", parsed)
        for column, words in [(order, "0 to 499 in order"), (ids, "whole numbers")]:
            np.savetxt("p.csv", np.c_[p, column], delimiter=",")
            with pytest.raises(FileError, match=f"column 3 .*{words}.*--drop 3"):
                evaluate("y.npy", "p.csv")
        np.savetxt("p.csv", np.c_[late, ids], delimiter=",")
        with pytest.raises(FileError, match="--drop 1"):
            evaluate("y.npy", "p.csv", from_logits=True)
        order[-1] = -1
        np.savetxt("p.csv", np.c_[np.where(ids, 2, 1), order], delimiter=",")
        assert evaluate("y.npy", "p.csv", from_logits=True).scored == 500
        order[-1] = 499


def test_row_names_under_a_shorter_header_must_look_like_them(capsys):
    for rows in (
        "0.2,0.7,0.1\n0.3,0.4,0.3\n0.1,0.6,0.3\n",
        "1,0,0\n0,1,0\n1,0,0\n",
        '"0.2","0.7","0.1"\n"0.3","0.4","0.3"\n"0.1","0.6","0.3"\n',
    ):
        write(y=Y, p="a,b\n" + rows)
        status, _, message = command(capsys)
        assert status == 2
        assert "one name less than columns" in message
        assert command(capsys, "--drop", "")[0] == 0
        assert command(capsys, "--columns", "0,1,2")[0] == 0


# --- choosing columns -----------------------------------------------------------------------------


def test_columns_are_taken_in_the_order_named():
    p = "b,id,a\n0.3,5,0.7\n0.6,9,0.4\n0.1,2,0.9\n"
    for columns in (["a", "b"], [2, 0], ["2", "0"], ("a ", " b")):
        assert scored(Y, p, columns=columns) == pytest.approx(RIGHT, rel=1e-6)
    for drop in ("id", ["id"], 1, ["1"]):
        swapped = scored("1\n0\n1\n", p, drop=drop)
        assert swapped == pytest.approx(RIGHT, rel=1e-6)


def test_a_name_goes_before_a_position():
    p = "1,0\n0.3,0.7\n0.6,0.4\n0.1,0.9\n"
    for columns in (["0", "1"], "01", [1, 0]):
        assert scored("y\n" + Y, p, header="yes", columns=list(columns)) == pytest.approx(
            RIGHT, rel=1e-6
        )


def test_names_on_the_command_line(capsys):
    write(y=Y, p='"a, b",c,id\n' + with_column(2, IDS))
    for options in (
        ["--columns", '"a, b",c'],
        ["--columns", '"a, b"', "--columns", "c"],
        ["--columns", "0,1"],
        ["--drop", "id"],
        ["--drop", "2"],
    ):
        assert command(capsys, *options)[:2] == (0, pytest.approx(RIGHT, rel=1e-6))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"columns": ["a", "z"]},
            r"no column 'z': --columns takes names \('a', 'b'\) or positions",
        ),
        ({"columns": ["a", "1"]}, "no column '1'"),
        ({"columns": [0, 2]}, "no column 2: .* positions, 0 to 1"),
        ({"columns": [-1, 0]}, "no column -1"),
        ({"columns": ["a", "a"]}, "one column 'a', which --columns names twice"),
        ({"columns": []}, "must keep a column"),
        ({"drop": ["a", "b"]}, "must keep a column"),
        ({"drop": "z"}, "no column 'z': --drop takes names"),
        ({"label_column": "z"}, "y.csv has no column 'z': --label-column takes positions, 0 to 0"),
    ],
)
def test_a_column_that_is_not_there_is_refused(options, words):
    assert re.search(words, refusal(Y, "a,b\n" + P, **options))


def test_a_name_that_stands_twice_is_refused_by_name_only():
    p = "a,a\n" + P
    assert "give --columns positions" in refusal(Y, p, columns=["a"])
    assert scored(Y, p, columns=[0, 1]) == scored(Y, p) == pytest.approx(RIGHT, rel=1e-6)


def test_columns_are_for_tables():
    write(y=Y, p=P)
    np.save("y.npy", [0, 1, 0])
    np.save("p.npy", np.array(TEXT, float))
    for options, words in [
        ({"columns": [0, 1]}, "--columns is for .csv files, got p.npy"),
        ({"drop": [0]}, "--drop is for .csv files, got p.npy"),
        ({"label_column": 0}, "--label-column is for .csv files, got y.npy"),
    ]:
        with pytest.raises(ValueError, match=words):
            evaluate("y.npy", "p.npy", **options)
    for options, words in [
        ({"header": "maybe"}, "header must be 'auto', 'yes' or 'no', got 'maybe'"),
        ({"weight_column": "w"}, "--weight-column must come with --sample-weight"),
    ]:
        with pytest.raises(ValueError, match=words):
            evaluate("y.csv", "p.csv", **options)
    with pytest.raises(ValueError, match="--columns and --drop must not both"):
        evaluate("y.csv", "p.csv", columns=[0, 1], drop=[2])
    with pytest.raises(TypeError, match=r"a column must be a name or a position from 0, got 0\.5"):
        evaluate("y.csv", "p.csv", columns=[0.5])


# --- what is refused ------------------------------------------------------------------------------


def in_row(cell):
    return f"0.7,0.3\n{cell},0.6\n0.9,0.1\n"


CELLS = {
    "1_000": "digits 0 to 9",
    "1__0": "'1__0'",
    "٣": "digits 0 to 9",
    "１": "digits 0 to 9",
    '"1,233,961"': "digits 0 to 9",
    '"0,4"': "digits 0 to 9",
    "0x1p-3": "'0x1p-3'",
    "1d-3": "'1d-3'",
    "40%": "'40%'",
    "NA": "'NA' .missing.",
    "": "'' .missing.",
    '""': "'' .missing.",
    "None": "'None' .missing.",
    "True": "'True'",
    "0.4\0": r"'0\\.4\\x00'|'0.4\\x00'",
    "−0.4": "'−0.4'",
    "x" * 200_000: "200,000 characters",
    '"' + "x" * 200_000 + '"': "200,000 characters",
    '"0.4': "a quote that does not end",
    '"0.4"x"': "a quote that does not end",
    '"0.4\n"': "a quote that does not end",
}


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: ascii(cell)[:20])
def test_a_cell_that_is_no_number_is_named_by_file_line_and_column(cell):
    words = CELLS[cell]
    message = refusal(Y, in_row(cell))
    assert message.startswith("p.csv, line 2, column 1: expected a ")
    assert re.search(words, message)
    assert refusal(Y, "a,b\n" + in_row(cell)).startswith("p.csv, line 3, column 1: ")
    if cell != '"0.4\n"':
        first = refusal(Y, f"{cell},0.3\n0.4,0.6\n0.9,0.1\n")
        assert first.startswith("p.csv, line 1, column 1: expected a ")
    label = refusal(f"0\n{cell}\n0\n", P) if cell else ""
    assert label.startswith("y.csv, line 2, column 1: expected a ") or not cell


@pytest.mark.parametrize(
    ("y", "p", "words"),
    [
        (Y, "0.7,0.3\n\n0.4,0.6\n0.9,0.1\n", "p.csv, line 2: expected numbers, got a blank line"),
        ("0\n\n1\n0\n", P, "y.csv, line 2: expected numbers, got a blank line"),
        (Y, "\n" + P, "p.csv, line 1: expected numbers, got a blank line"),
        (Y, "\n" + P.replace(",", " "), "p.csv, line 1: expected numbers, got a blank line"),
        (Y, "0.7,0.3\n# old\n0.4,0.6\n0.9,0.1\n", "p.csv, line 2: .*got a comment"),
        (Y, P + "# end\n", "p.csv, line 4: .*got a comment"),
        (Y, "# made on a Monday\n" + P, "p.csv, line 1: expected 2 names behind #.* got 1"),
        (Y, "0.7,0.3\n0.4,0.6,0\n0.9,0.1\n", "p.csv, line 2: expected 2 columns, got 3"),
        (Y, "a,b,c,d\n" + P, "p.csv, line 2: expected 4 columns, got 2"),
        (Y, ("a,b\n" + P).encode("utf-16"), "must be text in UTF-8, got UTF-16: .*iconv -f UTF-16"),
        (Y, ("a,b\n" + P).encode("utf-16-le"), "must be text in UTF-8, got UTF-16LE"),
        (Y, P.encode("utf-16-be"), "must be text in UTF-8, got UTF-16BE"),
        (Y, P.encode("utf-32"), "must be text in UTF-8, got UTF-32"),
        (Y, "0,7,0,3\n0,4,0,6\n0,9,0,1\n", "decimal commas between commas"),
        (Y, "0,7;0.3\n0,4;0,6\n0,9;0,1\n", "p.csv, line 1, column 2: .*decimal mark must be"),
        (Y, "1;0\n0,4;0,6\n0.9;0.1\n", "p.csv, line 3, column 1: .*decimal mark must be"),
        (Y, "1.000,5;0,3\n0,4;0,6\n0,9;0,1\n", "p.csv, line 1, column 1: .*'1.000,5'"),
        (Y, P.replace(",", "|"), "p.csv, line 2, column 1: .*'0.4|0.6'.*between columns stand"),
        (Y, "0.7,0.3,\n0.4,0.6,\n0.9,0.1,\n", "p.csv, line 1, column 3: .*--drop 2"),
        (Y, "a,b,\n0.7,0.3,\n0.4,0.6,\n0.9,0.1,\n", "a column without a name.*--drop ''"),
        (Y, "a,b\n0.7,0.3,\n0.4,0.6,\n0.9,0.1,\n", "a column without a name.*--drop ''"),
        ('"w"\n1,5\n2,5\n3,5\n', P, "y.csv, line 2: .*decimal comma"),
    ],
)
def test_a_table_that_is_not_plain_is_refused_by_its_place(y, p, words):
    message = refusal(y, p)
    assert message.startswith(("p.csv", "y.csv"))
    assert re.search(words, message)


@pytest.mark.parametrize("parsed", [2, 4, 1 << 18])
def test_decimal_marks_do_not_change_within_a_file(parsed, monkeypatch):
    monkeypatch.setattr(tables, "_PARSED", parsed)  # one row at a time
    message = refusal(Y, "1;0\n0,4;0,6\n0.9;0.1\n")
    assert message.startswith("p.csv, line 3, column 1: expected a number, got '0.9'; the decimal")


def test_a_separator_at_the_end_of_each_line_can_be_left_out():
    p = P.replace("\n", ",\n")
    assert scored(Y, p, drop=2) == pytest.approx(RIGHT, rel=1e-6)
    assert scored(Y, "a,b,\n" + p, drop="") == pytest.approx(RIGHT, rel=1e-6)
    assert scored(Y, "a,b\n" + p, drop="") == pytest.approx(RIGHT, rel=1e-6)


def test_a_file_that_grows_while_it_is_read_is_refused():
    write(p=P)
    source = tables.Table("p.csv", tables.Choice(header="no"))
    with open("p.csv", "a", encoding="utf-8") as file:
        file.write("0.5,0.5\n")
    with pytest.raises(FileError, match="grew while it was read: it had 3 lines"):
        source.read((slice(0, 3), slice(0, 2)))
    source.close()


def test_a_file_that_ends_too_early_is_refused():
    write(p=P)
    source = tables.Table("p.csv", tables.Choice(header="no"))
    source.close()
    source._file = open("p.csv", encoding="utf-8")  # noqa: SIM115 - it is closed below
    source._file.readline()  # a line less than there was
    with pytest.raises(FileError, match="was cut short while it was read: .* after line 2"):
        source.read((slice(0, 3), slice(0, 2)))
    source.close()


class Broken:
    """A file that fails while it is read."""

    def __init__(self, error):
        self.error = error

    def __next__(self):
        raise self.error

    def __iter__(self):
        return self

    def close(self):
        pass


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(5, "Input/output error"), "p.csv cannot be read: Input/output error"),
        (MemoryError(), "p.csv has lines too long"),
    ],
)
def test_an_error_while_rows_are_read_names_the_file(error, words):
    write(p=P)
    source = tables.Table("p.csv", tables.Choice(header="no"))
    source.close()
    source._file = Broken(error)
    with pytest.raises(FileError, match=words):
        source.read((slice(0, 3), slice(0, 2)))


def test_names_that_no_shell_takes_are_given_by_position(capsys):
    for name in (b"-x", b"\xf6"):
        write(y=Y, p=b"a," + name + b",k\n" + with_column(2, IDS).encode())
        _, _, message = command(capsys)
        assert message.endswith("--drop k, or name the columns of the classes, --columns 0,1\n")
    assert main(["evaluate", "y.csv", "p.csv", "--drop", "a\nb"]) == 2
    assert "no list of names" in capsys.readouterr().err


def test_many_columns_are_judged_at_once():
    """Looking at each beside all others would take a minute."""
    c = 20_000
    text = "1," * (c - 1) + "0\n"
    np.save("y.npy", [0, 1, 2])
    write(p=",".join(f"c{k}" for k in range(c)) + "\n" + text * 3)
    assert evaluate("y.npy", "p.csv", from_logits=True).classes == c


def test_help_tells_how_columns_are_named(capsys):
    assert main(["evaluate", "--help"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    for words in ("--columns", "--drop", "--label-column", "--weight-column", "0 is column 1"):
        assert words in told


# --- any table that pandas or the csv module writes -----------------------------------------------

COLUMN = st.none() | st.tuples(
    st.sampled_from(["in order", "not in order", "text"]),
    st.sampled_from(["customer", "id", "", "index", 17]),
    st.integers(0, 4),
)


@st.composite
def drawn_tables(draw):
    """Scores and labels, and how they are written; what cannot be told apart is not drawn."""
    n, c = draw(st.integers(1, 6)), draw(st.integers(2, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    kind = draw(st.sampled_from(["probabilities", "certain", "logits", "whole logits"]))
    x = {
        "probabilities": rng.dirichlet(np.ones(c), n),
        "certain": np.eye(c)[rng.integers(0, c, n)],
        "logits": rng.normal(size=(n, c)) * 3,
        "whole logits": rng.integers(-9, 9, (n, c)) * 1.0,
    }[kind]
    fractions = kind in ("probabilities", "logits")
    headers = [None, "text", "from 0", "from 1"] + ["numbers"] * fractions
    names = {
        None: None,
        "text": [f"class {k}" for k in range(c)],
        "from 0": list(range(c)),
        "from 1": list(range(1, c + 1)),
        "numbers": [int(k) for k in rng.permutation(np.arange(2, 50))[:c]],
    }[draw(st.sampled_from(headers))]
    extra = draw(COLUMN if fractions else st.none())
    return {
        "x": x,
        "y": rng.integers(0, c, n),
        "names": names,
        "extra": extra if n > 2 else None,
        "label": draw(st.sampled_from([None, "y", 0, 1])),
        "from_logits": "logits" in kind,
        "rng": rng,
    }


def framed(drawn):
    """The predictions as a frame, with the column that is no class."""
    x, names = drawn["x"], drawn["names"]
    frame = pd.DataFrame(x, columns=names)
    if drawn["extra"] is not None:
        kind, name, position = drawn["extra"]
        ids = {
            "in order": np.arange(len(x)),
            "not in order": 2 + drawn["rng"].permutation(99)[: len(x)],
            "text": [f"x{k}" for k in range(len(x))],
        }[kind]
        frame.insert(min(position, x.shape[1]), name, ids, allow_duplicates=True)
    return frame


def written_by_csv(frame, header, dialect):
    text = io.StringIO()
    writer = csv.writer(text, **dialect)
    writer.writerows([list(frame.columns)] * header + frame.astype(object).to_numpy().tolist())
    return text.getvalue()


DIALECT = st.fixed_dictionaries(
    {
        "delimiter": st.sampled_from([",", ";", "\t", " "]),
        "quoting": st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
        "lineterminator": st.sampled_from(["\n", "\r\n", "\r"]),
    }
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    drawn=drawn_tables(),
    dialect=DIALECT,
    decimal=st.sampled_from([".", ","]),
    by_pandas=st.booleans(),
    index=st.tuples(st.booleans(), st.booleans()),
)
def test_a_table_that_is_written_is_scored_rightly_or_refused(
    drawn, dialect, decimal, by_pandas, index
):
    frame, named = framed(drawn), drawn["names"] is not None
    assume(named or len(frame) > 2 or not index[0])  # one or two numbers may be scores
    labels = pd.DataFrame({drawn["label"] or "y": drawn["y"]})
    labels.columns = [drawn["label"]]
    if by_pandas:
        form = dict(sep=dialect["delimiter"], lineterminator=dialect["lineterminator"])
        form |= dict(quoting=dialect["quoting"], decimal=decimal)
        p = frame.to_csv(None, header=named, index=index[0], **form)
        y = labels.to_csv(None, header=drawn["label"] is not None, index=index[1], **form)
    else:
        p = written_by_csv(frame, named, dialect)
        y = written_by_csv(labels, drawn["label"] is not None, dialect)
    expected = loss_sparse_categorical_crossentropy(
        drawn["y"], drawn["x"], from_logits=drawn["from_logits"]
    ).mean()
    plain = (
        drawn["extra"] is None
        and not (by_pandas and any(index))
        and (drawn["names"] is None or isinstance(drawn["names"][0], str))
        and not (by_pandas and decimal == "," == dialect["delimiter"])
    )
    try:
        got = scored(y, p, from_logits=drawn["from_logits"])
    except ValueError as refused:
        message = str(refused)
        assert message.startswith(("p.csv", "y.csv"))
        assert "\n" not in message
        if plain:  # whole numbers may be an index, or names
            assert (drawn["x"] == np.floor(drawn["x"])).all()
            assert re.search(r"in order|--header yes or --header no", message)
    else:
        assert got == pytest.approx(expected, rel=1e-12)
