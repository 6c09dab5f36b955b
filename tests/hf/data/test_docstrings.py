from __future__ import annotations

import importlib.util
import re
import sys
from collections import Counter

import pytest

from fastbert_hf.docstrings import LIBRARIES, DocstringDataset, build_docstring_dataset, clean_paragraph

MISSING = [name for name in LIBRARIES if name != "stdlib" and importlib.util.find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"needs the sources of {MISSING}")


@pytest.fixture(scope="module")
def dataset() -> DocstringDataset:
    return build_docstring_dataset(seed=3, train_per_class=120, test_per_class=40)


def test_balanced_and_of_the_wanted_size(dataset: DocstringDataset) -> None:
    assert Counter(dataset.train.label_ids) == dict.fromkeys(range(5), 120)
    assert Counter(dataset.test.label_ids) == dict.fromkeys(range(5), 40)
    assert dataset.train.label_names == dataset.test.label_names == list(LIBRARIES)
    assert dataset.train.label_ids != sorted(dataset.train.label_ids)  # shuffled, not class by class


def test_texts_are_clean_and_unique(dataset: DocstringDataset) -> None:
    texts = dataset.train.texts + dataset.test.texts
    keys = [re.sub("[^a-z]", "", text.lower()) for text in texts]
    assert len(set(keys)) == len(keys)
    for text in texts:
        assert "\n" not in text and "  " not in text and len(text.split()) >= 5


def test_the_class_is_not_given_away(dataset: DocstringDataset) -> None:
    for text in dataset.train.texts + dataset.test.texts:
        assert not re.search("torch|sympy|numpy|networkx|python", text, re.IGNORECASE), text
        assert not re.search(r"\b(np|nx)\b", text, re.IGNORECASE), text


def test_same_seed_same_data_and_other_seed_other_data(dataset: DocstringDataset) -> None:
    assert build_docstring_dataset(seed=3, train_per_class=120, test_per_class=40) == dataset
    assert build_docstring_dataset(seed=4, train_per_class=120, test_per_class=40) != dataset


def test_smaller_part_of_same_seed_has_the_same_split(dataset: DocstringDataset) -> None:
    smaller = build_docstring_dataset(seed=3, train_per_class=30, test_per_class=40)
    assert set(smaller.train.texts) <= set(dataset.train.texts)
    assert set(smaller.test.texts) == set(dataset.test.texts)


def test_clean_paragraph() -> None:
    docstring = """Like PyTorch's ``np.ndarray`` of
        numpy_array, torch.Tensor and nx.Graph.

        Second paragraph.
    """
    expected = "Like library's ``library.ndarray`` of library_array, library.Tensor and library.Graph."
    assert clean_paragraph(docstring) == expected
    assert clean_paragraph("input, snpx, index") == "input, snpx, index"
    assert clean_paragraph("") == ""


def test_errors() -> None:
    with pytest.raises(ValueError, match="lower train_per_class"):
        build_docstring_dataset(train_per_class=10**6)
    with pytest.raises(ValueError, match="at least 1"):
        build_docstring_dataset(test_per_class=0)


def test_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "networkx" else find_spec(name))
    with pytest.raises(ModuleNotFoundError, match="pip install networkx"):
        build_docstring_dataset(train_per_class=1, test_per_class=1)


def test_no_library_is_imported_to_read_it() -> None:
    before = set(sys.modules)
    build_docstring_dataset(train_per_class=3, test_per_class=3)
    assert not {name for name in set(sys.modules) - before if name.split(".")[0] in LIBRARIES}
