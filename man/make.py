"""Writes man/*.Rd, R's manual: one page for each public name of sparse_xent.

    python man/make.py             write the pages (`make man`)
    python man/make.py --check     say which are not current, write nothing; status 1 if any
    python man/make.py --run       first run man/examples/ in R and renew the output they show

A page is made of the name's signature and Google docstring, of man/pages.toml (formulas, and what
is R's alone) and of man/examples/<name>.R; so it is those that are edited. Nothing but `--run`
needs R.
"""

import argparse
import inspect
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

import sparse_xent

HERE = Path(__file__).parent

#: Public callables, a page each.
TOPICS = [name for name in sparse_xent.__all__ if callable(getattr(sparse_xent, name))]

#: Pages whose names differ from another's by case alone, and must not as files: their files' names.
FILES = {"Partial": "Partial-class"}

#: What an object answers, by its class: how it is called in R, and the method.
METHODS = {
    "Partial": [
        *(
            (f"state${name}", name)
            for name in (
                "merge", "result", "accuracy", "standard_error", "to_json", "to_bytes",
            )
        ),
        ("Partial$from_json", "from_json"),
        ("Partial$from_bytes", "from_bytes"),
    ],
    "RowState": [("state$to_bytes", "to_bytes"), ("RowState$from_bytes", "from_bytes")],
}  # fmt: skip

#: Python's words for what R calls otherwise.
WORDS = {
    "a NumPy scalar": "a number",
    "A NumPy scalar": "A number",
    "a NumPy array": "an array",
    "A NumPy array": "An array",
    "a dict": "a named list",
    "A dict": "A named list",
    "list or set of classes": "vector of classes",
    "list of ": "vector of ",
    "floats; lists too": "doubles; vectors too",
    "whole-number floats": "whole-number doubles",
}
CONSTANTS = {"None": "NULL", "True": "TRUE", "False": "FALSE"}

#: What stands for Python's `*` and for the names that a function does not know.
DOTS = "nothing: what follows is given by name, and a name that is not known is refused."


class Docstring(NamedTuple):
    """A Google docstring, taken apart."""

    title: str
    text: str
    sections: dict[str, str]

    @classmethod
    def of(cls, thing: object) -> "Docstring":
        """Take the docstring of a public thing apart at `Args:`, `Returns:` and their like."""
        title, _, rest = (inspect.getdoc(thing) or "").partition("\n\n")
        parts = re.split(r"^([A-Z][a-z]+):[ \n]", rest, flags=re.MULTILINE)
        text, names, bodies = parts[0], parts[1::2], parts[2::2]
        bodies = [inspect.cleandoc(" " * 4 + body.lstrip()) for body in bodies]
        return cls(title.replace("\n", " "), text.strip(), dict(zip(names, bodies, strict=True)))

    def entries(self, section: str) -> dict[str, str]:
        """{name: text} of a section of such entries: `Args`, `Raises`, `Warns`."""
        found = re.split(r"^(\w[\w, ]*): ", self.sections.get(section, ""), flags=re.MULTILINE)
        return {
            name: textwrap.dedent(text).strip()
            for name, text in zip(found[1::2], found[2::2], strict=True)
        }


def rd(text: str) -> str:
    """Docstring text as Rd text: escaped, R's words, `code` marked and linked."""
    for word, ours in WORDS.items():
        text = re.sub(rf"{word}".replace(" ", r"\s"), ours, text)
    text = re.sub(r"([\\%{}])", r"\\\1", re.sub(r"\n +", "\n", text))
    pieces = re.split(r"(`[^`]*`|(?<!\w)\"\w*\")", text)
    pieces[1::2] = [_code(piece.strip("`")) for piece in pieces[1::2]]
    constant = rf"\b({'|'.join(CONSTANTS)})\b"
    pieces[::2] = [
        re.sub(
            constant,
            lambda word: _code(word[1]),
            re.sub(r"\beps\b", r"\\eqn{\\epsilon}{eps}", piece),
        )
        for piece in pieces[::2]
    ]
    return "".join(pieces)


def _code(text: str) -> str:
    text = re.sub(r"\w+", lambda word: CONSTANTS.get(word[0], word[0]), text)
    text = re.sub(r"(\w)=(\w)", r"\1 = \2", text)
    topic = text.removesuffix("()")
    return (
        rf"\code{{\link{{{topic}}}{text[len(topic) :]}}}"
        if topic in TOPICS
        else rf"\code{{{text}}}"
    )


def stem(topic: str) -> str:
    """The name of a topic's files, without what follows the point."""
    return FILES.get(topic, topic)


def prose(text: str) -> str:
    """A docstring's paragraphs as Rd text; those that are indented are code."""
    made = []
    for block in re.split(r"\n\n(?=\S)", text):
        words, *code = block.split("\n\n")
        made.append(rd(words))
        if code:
            shown = textwrap.dedent("\n\n".join(code)).strip("\n")
            escaped = re.sub(r"([\\%{}])", r"\\\1", shown)
            made.append(rf"\preformatted{{{escaped}}}")
    return "\n\n".join(made)


def default(value: Any) -> str:
    """A default as R writes it."""
    if value == ():
        return "NULL"
    if value is None or isinstance(value, bool):
        return CONSTANTS[str(value)]
    if isinstance(value, str):
        return f'"{value}"'
    return f"{value}L" if isinstance(value, int) else f"{value:g}"


def arguments(thing: Any) -> dict[str, str]:
    """{name: default, or "" for none}, in R's order: `...` stands for Python's `*`."""
    parameters = inspect.signature(thing).parameters.values()
    found: dict[str, str] = {}
    for parameter in parameters:
        if parameter.name == "self":
            continue
        if parameter.kind in (parameter.KEYWORD_ONLY, parameter.VAR_KEYWORD):
            found.setdefault("...", "")
        if parameter.kind is not parameter.VAR_KEYWORD:
            bare = parameter.default is parameter.empty
            found[parameter.name] = "" if bare else default(parameter.default)
    return found


def usage(called: str, thing: Any) -> str:
    """A call with all its arguments, on one line or one line each."""
    shown = [f"{name} = {value}" if value else name for name, value in arguments(thing).items()]
    line = f"{called}({', '.join(shown)})"
    if len(line) <= 80:
        return line
    lines = ",\n".join(f"  {argument}" for argument in shown)
    return f"{called}(\n{lines}\n)"


def documented(thing: Any) -> dict[str, str]:
    """{name: text} of every argument, in R's order; KeyError where the docstring says nothing."""
    told = Docstring.of(thing).entries("Args")
    return {name: DOTS if name == "..." else told[name] for name in arguments(thing)}


def items(entries: dict[str, str], code: bool = False) -> str:
    r"""Entries as Rd's \item lines."""
    shown = {name: rf"\code{{{name}}}" if code else name for name in entries}
    return "\n".join(
        rf"\item{{{shown[name].replace('...', chr(92) + 'dots')}}}{{{rd(text)}}}"
        for name, text in entries.items()
    )


def methods(cls: type) -> str:
    """The calls that an object answers, told one after the other."""
    told = []
    if hasattr(cls, "value_and_grad"):
        usual = [("loss", "__call__"), ("loss$value_and_grad", "value_and_grad")]
        usual.append(("loss$get_config", "get_config"))
    else:
        names = ("update_state", "result", "reset_state", "merge", "get_config")
        usual = [(f"metric${name}", name) for name in names]
    usual.append((f"{cls.__name__}$from_config", "from_config"))
    for called, name in METHODS.get(cls.__name__, usual):
        method = getattr(cls, name)
        doc = Docstring.of(method)
        entries = documented(method)
        told.append(rf"\preformatted{{{usage(called, method)}}}" + "\n" + rd(doc.title))
        if entries:
            told[-1] += "\n" + rf"\describe{{{chr(10)}{items(entries, code=True)}{chr(10)}}}"
        if returned := doc.sections.get("Returns"):
            told[-1] += "\n\n" + rf"\emph{{Value:}} {rd(returned)}"
    return "\n\n".join(told)


def prelude(source: str) -> str:
    """The lines that bind the public names that an example uses."""
    code = re.sub(r"^#.*", "", source, flags=re.MULTILINE)
    lines = ['sx <- reticulate::import("sparse_xent")']
    lines += [f"{name} <- sx${name}" for name in TOPICS if re.search(rf"\b{name}\b", code)]
    return "\n".join(lines) + "\n\n"


def example(topic: str) -> str:
    """An example as it runs: the names that it uses, bound, and its source."""
    source = (HERE / "examples" / f"{stem(topic)}.R").read_text("utf-8")
    return prelude(source) + source


def page(topic: str) -> str:
    """The Rd page of a public name."""
    pages = tomllib.loads((HERE / "pages.toml").read_text("utf-8"))
    told = pages["topics"][topic]
    thing = getattr(sparse_xent, topic)
    doc = Docstring.of(thing)
    code = re.sub(r"([\\%])", r"\\\1", example(topic)).strip()

    parts = [
        "% Made by man/make.py: edit the docstring, man/pages.toml or man/examples/ instead.",
        rf"\name{{{topic}}}",
        rf"\alias{{{topic}}}",
        r"\encoding{UTF-8}",
        rf"\title{{{told['title']}}}",
        rf"\description{{{chr(10)}{rd(doc.title)}{chr(10)}}}",
        rf"\usage{{{chr(10)}{usage(topic, thing)}{chr(10)}}}",
    ]
    if arguments(thing):
        parts.append(rf"\arguments{{{chr(10)}{items(documented(thing))}{chr(10)}}}")
    if doc.text:
        parts.append(rf"\details{{{chr(10)}{prose(doc.text)}{chr(10)}}}")
    if value := doc.sections.get("Returns") or told.get("value"):
        parts.append(rf"\value{{{chr(10)}{rd(value)}{chr(10)}}}")
    if "formula" in told:
        parts.append(_section("Formula", told["formula"]))
    if attributes := doc.entries("Attributes"):
        entries = rf"\describe{{{chr(10)}{items(attributes, code=True)}{chr(10)}}}"
        parts.append(_section("What the object has", entries))
    if inspect.isclass(thing):
        parts.append(_section("What the object does", methods(thing)))
    parts += [_section(title, text) for title, text in told.get("sections", {}).items()]
    parts += [
        _section(title, rf"\itemize{{{chr(10)}{pages['notes'][title].strip()}{chr(10)}}}")
        for title in told.get("notes", [])
    ]
    if raises := doc.entries("Raises"):
        entries = rf"\describe{{{chr(10)}{items(raises, code=True)}{chr(10)}}}"
        parts.append(_section("Errors", "R conditions, whose text begins with:\n" + entries))
    if warns := doc.entries("Warns"):
        entries = rf"\describe{{{chr(10)}{items(warns, code=True)}{chr(10)}}}"
        parts.append(_section("Warnings", "At most one a call:\n" + entries))
    if cost := doc.sections.get("Cost"):
        parts.append(_section("Cost", rd(cost)))
    if source := doc.sections.get("Source"):
        parts.append(rf"\source{{{chr(10)}{rd(source)}{chr(10)}}}")
    also = ",\n".join(rf"\code{{\link{{{name}}}}}" for name in told["seealso"])
    parts.append(rf"\seealso{{{chr(10)}{also}{chr(10)}}}")
    parts.append(rf"\examples{{{chr(10)}{code}{chr(10)}}}")
    return "\n".join(parts) + "\n"


def _section(title: str, text: str) -> str:
    return rf"\section{{{title}}}{{{chr(10)}{text.strip()}{chr(10)}}}"


def run_examples() -> None:
    """Run every example in one R, and put what it prints, as R does, into man/examples/."""
    if shutil.which("Rscript") is None:
        raise SystemExit("Rscript is not found: install R (Debian, Ubuntu: r-cran-reticulate)")
    with tempfile.TemporaryDirectory() as folder:
        for topic in TOPICS:
            (Path(folder) / f"{stem(topic)}.R").write_text(example(topic), "utf-8")
        files = [f"{folder}/{stem(topic)}.R" for topic in TOPICS]
        subprocess.run(["Rscript", HERE / "run.R", *files], check=True)
        for topic in TOPICS:
            text = (Path(folder) / f"{stem(topic)}.R").read_text("utf-8")
            bare = text.removeprefix(prelude(text))
            (HERE / "examples" / f"{stem(topic)}.R").write_text(bare, "utf-8")


def stale() -> list[str]:
    """Files of man/ that are not as this program writes them, or should not be there."""
    pages = {f"{stem(topic)}.Rd": page(topic) for topic in TOPICS}
    there = {path.name: path.read_text("utf-8") for path in HERE.glob("*.Rd")}
    return sorted(name for name in pages | there if pages.get(name) != there.get(name))


def main() -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if not current")
    parser.add_argument("--run", action="store_true", help="run the examples in R first")
    asked = parser.parse_args()
    if asked.run:
        run_examples()
    found = stale()
    if asked.check:
        for name in found:
            print(f"man/{name} is not current: run make man")
        return bool(found)
    for name in found:
        topics = [topic for topic in TOPICS if f"{stem(topic)}.Rd" == name]
        if topics:
            (HERE / name).write_text(page(*topics), "utf-8")
        else:
            (HERE / name).unlink()
    print(f"man: {len(TOPICS)} pages, {len(found)} of them changed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
