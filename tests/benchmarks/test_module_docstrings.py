"""The data set of many classes, from made-up libraries."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from fastbert_hf.data import ClassificationData
from fastbert_hf.docstrings import find_libraries
from module_docstrings import ModuleDocstrings, build_module_docstrings, mask

NUMBERS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


def write_module(path: Path, texts: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    functions = [f'def function_{number}():\n    """{text}\n\n    More."""\n' for number, text in enumerate(texts)]
    path.write_text("\n".join(functions))


def texts_of(name: str, count: int = 10) -> list[str]:
    return [f"Return the {NUMBERS[number]} {name} thing that was asked for." for number in range(count)]


@pytest.fixture
def roots(tmp_path: Path) -> dict[str, Path]:
    animals, plants = tmp_path / "animals", tmp_path / "plants"
    write_module(animals / "birds" / "__init__.py", texts_of("feathered", 6))
    write_module(animals / "birds" / "songs.py", texts_of("singing", 6))
    write_module(animals / "fish.py", texts_of("swimming"))
    write_module(plants / "trees" / "deep" / "roots.py", texts_of("wooden"))
    write_module(animals / "_private.py", texts_of("hidden"))
    write_module(animals / "rare.py", texts_of("seldom", 4))
    write_module(animals / "birds" / "tests" / "test_songs.py", texts_of("tested"))
    return {"animals": animals, "plants": plants}


def every_text(data: ModuleDocstrings) -> list[tuple[str, str]]:
    parts = (data.train, data.dev, data.test)
    return [(p.label_names[label], text) for p in parts for text, label in zip(p.texts, p.label_ids, strict=True)]


def build(roots: dict[str, Path], **options: object) -> ModuleDocstrings:
    return build_module_docstrings(roots, **{"fewest": 5, "most": 12, **options})  # type: ignore[arg-type]


def test_classes_are_public_modules_with_enough_docstrings(roots) -> None:
    data = build(roots)
    assert data.train.label_names == ["animals.birds", "animals.fish", "plants.trees"]
    assert Counter(name for name, _ in every_text(data)) == {
        "animals.birds": 12,
        "animals.fish": 10,
        "plants.trees": 10,
    }
    assert [len(part) for part in (data.train, data.dev, data.test)] == [19, 6, 7]
    assert {text.split()[3] for name, text in every_text(data) if name == "animals.birds"} == {"feathered", "singing"}


def test_no_class_has_more_than_it_may(roots) -> None:
    counts = Counter(name for name, _ in every_text(build(roots, most=7)))
    assert counts == {"animals.birds": 7, "animals.fish": 7, "plants.trees": 7}


def test_standard_library_modules_have_their_own_names(roots) -> None:
    assert build({"stdlib": roots["animals"]}).train.label_names == ["birds", "fish"]


def test_what_stands_in_two_modules_is_in_none(roots) -> None:
    shared = "Something that two modules say alike, number"
    write_module(roots["animals"] / "fish.py", [*texts_of("swimming"), f"{shared} 1."])
    write_module(roots["plants"] / "trees" / "more.py", [f"{shared.upper()} 2!"])
    assert not [text for _, text in every_text(build(roots)) if "two modules" in text.lower()]


def test_what_a_module_says_twice_is_used_once(roots) -> None:
    write_module(roots["animals"] / "birds" / "again.py", texts_of("SINGING", 6))
    keys = [re.sub("[^a-z]", "", text.lower()) for _, text in every_text(build(roots))]
    assert len(keys) == len(set(keys)) == 32


def test_own_names_and_libraries_are_masked() -> None:
    assert mask("An nn.Module of torch_nn, not of cnn; NN", "library.nn") == (
        "An module.Module of torch_module, not of cnn; module"
    )
    assert mask("As SciPy's scipylike, transformers and a transformer", "email") == (
        "As library's library, library and a transformer"
    )
    assert mask("reads  an\nemail", "http") == "reads an email"


def test_names_do_not_tell_classes_apart_in_the_data(roots) -> None:
    write_module(roots["animals"] / "fish.py", [text.replace("thing", "fish") for text in texts_of("swimming")])
    texts = [text for name, text in every_text(build(roots)) if name == "animals.fish"]
    assert all("fish" not in text and "module" in text for text in texts)


def test_same_seed_same_data_and_other_seed_other_data(roots) -> None:
    assert build(roots) == build(roots)
    assert build(roots).checksum == build(roots).checksum != build(roots, seed=1).checksum


def test_checksum_tells_labels_and_parts_apart() -> None:
    def data(texts: list[str], labels: list[int], dev: int) -> str:
        names = ["a", "b"]
        parts = [ClassificationData(texts[:dev], None, labels[:dev], names)]
        parts += [ClassificationData(texts[dev:], None, labels[dev:], names)]
        return ModuleDocstrings(*parts, ClassificationData([], None, [], names), {}).checksum

    same = data(["x", "y"], [0, 1], 1)
    assert len({same, data(["x", "y"], [1, 0], 1), data(["x", "y"], [0, 1], 2), data(["y", "x"], [0, 1], 1)}) == 4


@pytest.mark.parametrize(("options", "message"), [({"fewest": 0}, "at least 1"), ({"fewest": 13}, "at most `most`")])
def test_sizes_out_of_range(roots, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        build(roots, **options)


def test_one_class_is_too_few(roots) -> None:
    with pytest.raises(ValueError, match="1 modules have 11 usable docstrings or more; two are needed"):
        build(roots, fewest=11)


def test_missing_libraries_are_named() -> None:
    with pytest.raises(ModuleNotFoundError, match="pip install no_such_library nor_this_one"):
        find_libraries(["stdlib", "no_such_library", "torch", "nor_this_one"])
