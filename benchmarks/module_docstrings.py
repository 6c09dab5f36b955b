"""A data set of many classes that every machine with this package has: which module was this docstring written for?"""

from __future__ import annotations

import hashlib
import importlib.metadata
import itertools
import platform
import random
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from fastbert_hf.data import ClassificationData
from fastbert_hf.docstrings import STANDARD_LIBRARY, find_libraries, python_files, unused_paragraphs

LIBRARIES = ("networkx", "numpy", "scipy", STANDARD_LIBRARY, "sympy", "torch", "transformers")
FEWEST, MOST = 60, 200

_MIN_WORDS = 5
# Parts of the samples; what is left is the test set.
_TRAIN, _DEV = 0.6, 0.2
_NOT_MODULES = {"test", "tests", "this", "antigravity"}
# Names of libraries that `fastbert_hf.docstrings` does not know.
_LIBRARY = re.compile(r"[a-z0-9]*(?:scipy|transformers|hugging ?face)[a-z0-9]*", re.IGNORECASE)


@dataclass(frozen=True)
class ModuleDocstrings:
    """The data set.

    Attributes:
        train: a part of the pool, drawn at random; all parts have the same classes.
        dev: another part.
        test: a third one.
        versions: of Python and of the libraries whose sources were read, by name.
    """

    train: ClassificationData
    dev: ClassificationData
    test: ClassificationData
    versions: dict[str, str]

    @property
    def checksum(self) -> str:
        """SHA-256 of all texts, classes and their order, in hexadecimal."""
        digest = hashlib.sha256()
        for part in (self.train, self.dev, self.test):
            for text, label in zip(part.texts, part.label_ids, strict=True):
                digest.update(f"{part.label_names[label]}\t{text}\n".encode(errors="surrogatepass"))
            digest.update(b"\0")
        return digest.hexdigest()


def build_module_docstrings(
    roots: Mapping[str, Path] | None = None,
    seed: int = 0,
    fewest: int = FEWEST,
    most: int = MOST,
    progress: Callable[[str], None] = lambda name: None,
) -> ModuleDocstrings:
    """First paragraphs of docstrings; the classes are the public modules one step below a library's name.

    Every class is a module as `torch.nn` or, of the standard library, `email`, with all that lies below it, that has
    `fewest` usable docstrings. Sources are parsed and not imported, so that a function which other modules export too
    counts once, where it is written. Names of libraries become "library" in all texts, and the module's own name
    becomes "module" in its own. Paragraphs that are then equal but for case, digits and punctuation are used once, and
    not at all when they stand in several modules. The parts are drawn from all samples alike (60, 20 and 20 %), so that
    what is calibrated on one of them holds for another; docstrings of one file may be in different parts, which makes
    the task easier than it would be for files never seen.

    The result depends on the seed, the sizes and the versions of Python and of the libraries, and on nothing else.

    Args:
        roots: folder of each library by name; those of `LIBRARIES` by default.
        seed: of which files of large modules are read, and of the order of the samples.
        fewest: samples of a class, at least 1; modules with fewer are no class.
        most: samples of a class, at least `fewest`.
        progress: called with the name of each module before its files are read.

    Raises:
        ModuleNotFoundError: one of the libraries is not installed.
        ValueError: sizes out of range, or fewer than two classes.
    """
    if not 1 <= fewest <= most:
        raise ValueError(f"fewest must be at least 1 and at most `most`, got {fewest} and {most}")
    read = {}
    for library, root in (find_libraries(LIBRARIES) if roots is None else roots).items():
        for name, files in _public_modules(library, root):
            progress(name)
            random.Random(f"{seed} {name}").shuffle(files)
            read[name] = _paragraphs(name, files, 2 * most)
    modules_with = Counter(key for paragraphs in read.values() for key in paragraphs)
    classes = {}
    for name, paragraphs in read.items():
        own = [text for key, text in paragraphs.items() if modules_with[key] == 1]
        if len(own) >= fewest:
            random.Random(f"{seed} {name}").shuffle(own)
            classes[name] = own[:most]
    if len(classes) < 2:
        raise ValueError(f"{len(classes)} modules have {fewest} usable docstrings or more; two are needed")
    samples = [(text, label) for label, texts in enumerate(classes.values()) for text in texts]
    random.Random(seed).shuffle(samples)
    ends = [0, int(len(samples) * _TRAIN), int(len(samples) * (_TRAIN + _DEV)), len(samples)]
    train, dev, test = (
        ClassificationData([text for text, _ in part], None, [label for _, label in part], list(classes))
        for part in (samples[begin:end] for begin, end in itertools.pairwise(ends))
    )
    versions = {"python": platform.python_version()}
    if roots is None:
        versions |= {name: importlib.metadata.version(name) for name in LIBRARIES if name != STANDARD_LIBRARY}
    return ModuleDocstrings(train, dev, test, versions)


def _public_modules(library: str, root: Path) -> list[tuple[str, list[Path]]]:
    """Full name and source files of the modules directly below `root`, by name."""
    modules = []
    for path in sorted(root.iterdir()):
        name = path.stem if path.suffix == ".py" else path.name
        if not name.isidentifier() or name.startswith("_") or name in _NOT_MODULES:
            continue
        files = [path] if path.suffix == ".py" else list(python_files(path))
        modules.append((name if library == STANDARD_LIBRARY else f"{library}.{name}", files))
    return modules


def _paragraphs(module: str, files: list[Path], enough: int) -> dict[str, str]:
    """About the first `enough` masked paragraphs in `files`, by what two equal ones have in common."""
    found: dict[str, str] = {}
    seen: set[str] = set()
    for file in files:
        for paragraph in unused_paragraphs(file, seen):
            text = mask(paragraph, module)
            if len(text.split()) >= _MIN_WORDS:
                found.setdefault(re.sub(r"[^a-z]", "", text.lower()), text)
        if len(found) >= enough:
            break
    return found


def mask(text: str, module: str) -> str:
    """`text` without names of libraries and without the last part of the name of `module`."""
    own = re.escape(module.rpartition(".")[2])
    text = re.sub(rf"(?<![a-z0-9]){own}(?![a-z0-9])", "module", text, flags=re.IGNORECASE)
    return " ".join(_LIBRARY.sub("library", text).split())
