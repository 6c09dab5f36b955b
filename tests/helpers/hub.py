"""The caches that the clients of the hub fill, as they are after a download, for tests without a network."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import ClassVar

import datasets

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def put_model(cache: Path, name: str, folder: Path) -> None:
    """Lay the files of `folder` out in a cache of `huggingface_hub`, as the model `name` (with its organisation)."""
    repository = cache / f"models--{name.replace('/', '--')}"
    shutil.copytree(folder, repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)


def put_data_set(
    cache: Path, name: str, subset: str, parts: dict[str, list[tuple[str, int]]], classes: list[str]
) -> None:
    """Write the data set `name` with one `subset` into a cache of `datasets`; `parts` are sentences and labels."""

    class Builder(datasets.GeneratorBasedBuilder):
        BUILDER_CONFIGS: ClassVar = [datasets.BuilderConfig(name=subset)]

        def _info(self):
            columns = {"sentence": datasets.Value("string"), "label": datasets.ClassLabel(names=classes)}
            return datasets.DatasetInfo(features=datasets.Features(columns))

        def _split_generators(self, _):
            return [datasets.SplitGenerator(name=part, gen_kwargs={"part": part}) for part in parts]

        def _generate_examples(self, part):
            yield from enumerate({"sentence": text, "label": label} for text, label in parts[part])

    short = name.rpartition("/")[2]
    builder = Builder(cache_dir=str(cache), dataset_name=short, config_name=subset, hash=COMMIT, repo_id=name)
    builder.download_and_prepare()
