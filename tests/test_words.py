"""One form of docstrings: a line for each argument, the imperative for what a function does; one spelling of prose."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("fastbert_kernels", "python", "benchmarks", "tests", "scripts")

SECTIONS = ("Args:", "Attributes:")
ENTRY = re.compile(r"(?P<names>\*{0,2}\w+(?:(?:, | and )\*{0,2}\w+)*):(?: |$)")

# Words in "s" that functions begin with and that are no verbs: "Rows of a file", "As in `Trainer`".
NOUNS = """
Arguments Batches Biases Blocks Bounds Bytes Contestants FLOPs Files Graphs Heads Ids Labels Layers Lines Logits Marks
Matrices Names Numbers Options Parameters Percentages Probabilities Records Resources Results Rows Samples Scores
Seconds Sentences Texts Times Transformers Versions Warnings Weights Wheels Windows Words As Args Its This
"""
# Before these a noun is a verb after all: "Names of the files", but "Names the files".
OBJECTS = "a all an each every its no nothing one the their them these this those whether"
CLAUSES = "How Of What When Where Whether Which Who Whose Why"

# What British spelling has otherwise, but for the names of libraries' classes; `code` and blocks of it are left out.
AMERICAN = re.compile(
    r"\b(?:un|re|de)?(?:(?:initial|minim|maxim|normal|optim|quant|recogn|special|summar)iz|tokeniz(?!ers?\b)|neighbor)\w*"
)
CODE = re.compile(r"```.*?```|`[^`]*`|\]\([^)]*\)|<[^>]*>", re.DOTALL)

Documented = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def documented(source: str) -> Iterator[tuple[Documented, str]]:
    """Yield the functions, methods and classes of a file that have a docstring, and that."""
    left: list[ast.AST] = [ast.parse(source)]
    while left:
        node = left.pop()
        if isinstance(node, Documented) and (text := ast.get_docstring(node)):
            yield node, text
        left += [one for one in ast.iter_child_nodes(node) if not isinstance(one, ast.expr)]


@functools.cache
def all_docstrings() -> list[tuple[str, Documented, str]]:
    """Return those of all files of Python in the repository, each with its place."""
    files = [ROOT / "setup.py", *(file for folder in FOLDERS for file in sorted((ROOT / folder).rglob("*.py")))]
    return [
        (f"{file.relative_to(ROOT)}:{node.lineno} {node.name}", node, text)
        for file in files
        for node, text in documented(file.read_text(encoding="utf-8"))
    ]


def names_of(node: Documented) -> set[str]:
    """Return the names of the arguments, or of the fields and the arguments that make an object."""
    if isinstance(node, ast.ClassDef):
        fields = {ast.unparse(one.target) for one in node.body if isinstance(one, ast.AnnAssign)}
        makers = [one for one in node.body if isinstance(one, ast.FunctionDef) and one.name == "__init__"]
        return fields.union(*map(names_of, makers))
    every = node.args
    named = [*every.posonlyargs, *every.args, *every.kwonlyargs, *filter(None, (every.vararg, every.kwarg))]
    return {one.arg for one in named}


def entries_of(text: str) -> Iterator[str]:
    """Yield the entries of the sections of a docstring, each on one line."""
    lines = iter(text.splitlines())
    for line in lines:
        if line not in SECTIONS:
            continue
        found: list[str] = []
        for inner in lines:
            if not inner.startswith("    "):
                break
            if inner[4] == " " and found:
                found[-1] += " " + inner.strip()
            else:
                found.append(inner.strip())
        yield from found


def faults_of_entries(node: Documented, text: str) -> Iterator[str]:
    """Yield what is wrong with the sections of a docstring."""
    names = names_of(node)
    for entry in entries_of(text):
        head = ENTRY.match(entry)
        if head is None:
            yield f"{entry!r} names no argument"
        elif not head["names"].lstrip("*").isidentifier():
            yield f"{entry!r} names several arguments"
        else:
            for other in ENTRY.finditer(entry, head.end()):
                if not names.isdisjoint(re.findall(r"\w+", other["names"])):
                    yield f"{entry!r} holds {other['names']!r} as well"


def fault_of_verb(text: str) -> str | None:
    """Return what is wrong with the first words of the docstring of a function."""
    words = re.match(r"(?P<first>[A-Z][A-Za-z-]*)(?: (?P<second>\w+))?", text)
    if words is None:
        return None
    first = words["first"]
    if first in CLAUSES.split():
        return f"{first!r} begins no sentence with a verb"
    if not first.endswith("s") or first.endswith("ss"):
        return None
    if first not in NOUNS.split():
        return f"{first!r} is a verb in the third person, or else a noun that belongs into NOUNS"
    return f"{first!r} is a verb in the third person" if words["second"] in OBJECTS.split() and first != "As" else None


def is_read(node: Documented) -> bool:
    """Return whether it stands for a value, or is a test, whose docstring says what holds or why it is there."""
    return (
        isinstance(node, ast.ClassDef)
        or node.name.startswith("test_")
        or any("property" in ast.unparse(decorator) for decorator in node.decorator_list)
    )


def test_an_entry_names_one_argument():
    faults = [f"{place}: {fault}" for place, node, text in all_docstrings() for fault in faults_of_entries(node, text)]
    assert not faults, "\n".join(faults)
    assert sum(len(list(entries_of(text))) for _, _, text in all_docstrings()) > 1000


def test_functions_say_what_they_do_in_the_imperative():
    functions = [(place, text) for place, node, text in all_docstrings() if not is_read(node)]
    faults = [f"{place}: {fault}" for place, text in functions if (fault := fault_of_verb(text))]
    assert not faults, "\n".join(faults)
    assert len(functions) > 1500


def test_prose_is_spelt_the_british_way():
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
    prose = [(page.name, page.read_text(encoding="utf-8")) for page in pages]
    prose += [(place, text) for place, _, text in all_docstrings()]
    faults = [f"{place}: {found}" for place, text in prose for found in AMERICAN.findall(CODE.sub("", text))]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize(
    ("entries", "number"),
    [
        ("a: one.\n        b: two, a: no name of an entry stands here, but of an argument.", 1),
        ("a: one, with c: 3.", 0),
        ("a: one.\n            b: on the line of another", 1),
        ("a, b: of both.", 1),
        ("a and b: of both.", 1),
        ("a, *b: of both.", 1),
        ("what a call takes.", 1),
        ("*b: more.\n        a: which goes on\n            here.", 0),
        ("a: one. b, c: others.", 1),
    ],
)
def test_the_check_of_entries_sees(entries, number):
    source = (
        f'def f(a, *b):\n    """Go.\n\n    Args:\n        {entries}\n\n    Returns:\n        a, b: both.\n    """\n'
    )
    [(node, text)] = documented(source)
    assert len(list(faults_of_entries(node, text))) == number


@pytest.mark.parametrize("text", ["Returns it.", "Fine-tunes it.", "Whether it is.", "Names the files.", "Squeezes."])
def test_the_check_of_verbs_refuses(text):
    assert fault_of_verb(text)


@pytest.mark.parametrize("text", ["Pass it on.", "Names of files.", "As the base class.", "`x` is it.", "Texts, all."])
def test_the_check_of_verbs_takes(text):
    assert fault_of_verb(text) is None
