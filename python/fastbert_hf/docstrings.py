"""A data set that every machine with PyTorch has: which library was this docstring written for?"""

from __future__ import annotations

import ast
import importlib.util
import os
import random
import re
import sysconfig
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fastbert_hf.data import ClassificationData

STANDARD_LIBRARY = "stdlib"
LIBRARIES = ("networkx", "numpy", STANDARD_LIBRARY, "sympy", "torch")

Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
DEFINITIONS = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)

_MIN_WORDS = 5
# A single huge module should not fill a split.
_MAX_PER_MODULE = 60
# Tests, and code that other projects wrote.
_SKIPPED_DIRECTORIES = {
    "__pycache__",
    "_vendor",
    "_vendored",
    "dist-packages",
    "idle_test",
    "site-packages",
    "test",
    "tests",
    "vendored",
}
# A word that contains a library's name ("PyTorch", "libtorch", "numpy_like"), or is its usual abbreviation.
_GIVEAWAY = re.compile(
    r"[a-z0-9]*(?:torch|sympy|numpy|networkx|python)[a-z0-9]*|(?<![a-z0-9])(?:np|nx)(?![a-z0-9])", re.IGNORECASE
)


@dataclass(frozen=True)
class DocstringDataset:
    """Training and test part of the docstring data set."""

    train: ClassificationData
    test: ClassificationData


def build_docstring_dataset(seed: int = 0, train_per_class: int = 1000, test_per_class: int = 250) -> DocstringDataset:
    """First paragraphs of docstrings; the classes are the libraries that they document.

    Source files of the installed torch, sympy, numpy and networkx and of the standard library are parsed with `ast`;
    nothing is imported. A paragraph becomes one line of at least five words. Words that would give the class away
    (a library's name, also inside another word, `python`, `np`, `nx`) are replaced by "library". Paragraphs that
    are equal but for case, digits and punctuation are used once. A module belongs to one of the two parts as a whole,
    with at most 60 paragraphs, so that near-twins, which live side by side, do not straddle the split.

    The result depends on the seed and on the installed versions, and on nothing else.

    Args:
        seed: of the order in which modules are visited and samples are listed.
        train_per_class: training samples of every class; numpy, the smallest, has about 1,400 for both parts.
        test_per_class: test samples of every class.

    Raises:
        ModuleNotFoundError: one of the four libraries is not installed.
        ValueError: sizes below 1, or a library with too few docstrings.
    """
    if train_per_class < 1 or test_per_class < 1:
        raise ValueError("train_per_class and test_per_class must be at least 1")
    roots = find_libraries(LIBRARIES)
    used: set[str] = set()
    train: list[tuple[str, int]] = []
    test: list[tuple[str, int]] = []
    for label, name in enumerate(LIBRARIES):
        files = list(python_files(roots[name]))
        random.Random(f"{seed} {name}").shuffle(files)
        parts: tuple[list[str], list[str]] = ([], [])
        sizes = (test_per_class, train_per_class)
        for file in files:
            part, size = (parts[0], sizes[0]) if len(parts[0]) < sizes[0] else (parts[1], sizes[1])
            part.extend(unused_paragraphs(file, used)[: min(_MAX_PER_MODULE, size - len(part))])
            if len(parts[1]) == train_per_class:
                break
        else:
            raise ValueError(
                f"{name} has only {len(parts[0]) + len(parts[1])} usable docstrings, "
                f"{train_per_class + test_per_class} wanted; lower train_per_class or test_per_class"
            )
        test += [(text, label) for text in parts[0]]
        train += [(text, label) for text in parts[1]]
    return DocstringDataset(train=_shuffled(train, seed), test=_shuffled(test, seed))


def find_libraries(names: Sequence[str]) -> dict[str, Path]:
    """Folder of every library in `names`, found without importing it; `STANDARD_LIBRARY` is one of them.

    Raises:
        ModuleNotFoundError: naming all that are missing.
    """
    roots, missing = {}, []
    for name in names:
        if name == STANDARD_LIBRARY:
            roots[name] = Path(sysconfig.get_path("stdlib"))
            continue
        spec = importlib.util.find_spec(name)
        if spec is None or not spec.submodule_search_locations:
            missing.append(name)
        else:
            roots[name] = Path(spec.submodule_search_locations[0])
    if missing:
        raise ModuleNotFoundError(
            f"docstrings are read from the sources of {', '.join(missing)}, not installed here; "
            f"pip install {' '.join(missing)}"
        )
    return roots


def python_files(root: Path) -> Iterator[Path]:
    """Source files below `root` in an order that does not depend on the file system."""
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = sorted(set(subfolders) - _SKIPPED_DIRECTORIES)
        for name in sorted(names):
            if name.endswith(".py") and not name.startswith("test_"):
                yield Path(folder, name)


def unused_paragraphs(file: Path, used: set[str]) -> list[str]:
    """First paragraphs in `file` that are not in `used` yet, which they are added to."""
    paragraphs = []
    for docstring in docstrings_of(file, (ast.Module, *DEFINITIONS)):
        paragraph = clean_paragraph(docstring)
        key = re.sub(r"[^a-z]", "", paragraph.lower())
        if len(paragraph.split()) >= _MIN_WORDS and key not in used:
            used.add(key)
            paragraphs.append(paragraph)
    return paragraphs


def docstrings_of(file: Path, kinds: tuple[type[Documented], ...]) -> list[str]:
    """The docstrings in `file`, "" where there is none, of `kinds` of the nodes of `ast`; none if it does not parse."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in other people's sources
            tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):  # templates and deliberately broken files
        return []
    return [ast.get_docstring(node) or "" for node in ast.walk(tree) if isinstance(node, kinds)]


def clean_paragraph(docstring: str) -> str:
    """The first paragraph of `docstring` on one line, without words that name a library."""
    paragraph = re.split(r"\n\s*\n", docstring.strip(), maxsplit=1)[0]
    return " ".join(_GIVEAWAY.sub("library", paragraph).split())


def _shuffled(samples: list[tuple[str, int]], seed: int) -> ClassificationData:
    random.Random(seed).shuffle(samples)
    return ClassificationData(
        texts=[text for text, _ in samples],
        pairs=None,
        label_ids=[label for _, label in samples],
        label_names=list(LIBRARIES),
    )
