from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fastbert_hf.exits.resolution import resolve_speed
from fastbert_hf.exits.rule import ExitRule
from fastbert_hf.inputs import check_inputs, make_position_ids


def resolve(speed: object, batch_size: int = 3, **options: object):
    return resolve_speed(speed, batch_size=batch_size, device="cpu", exit_layers=[2, 3, 5], **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("speed", [None, 0, 0.0, [0, 0.0], ExitRule(()), ExitRule((), criterion="patience")])
def test_where_nobody_can_leave_it_is_full_depth(speed: object) -> None:
    assert resolve(speed) is None


@pytest.mark.parametrize("speed", [1, 0.25, np.float32(0.25)])
def test_number_becomes_one_threshold_per_sample(speed: float) -> None:
    result = resolve(speed)
    assert result is not None and result.layer_speeds is None and result.criterion == "entropy"
    assert result.sample_speeds.dtype == torch.float32 and result.sample_speeds.tolist() == [float(speed)] * 3
    assert torch.equal(result.thresholds(2), result.sample_speeds) and result.asks(2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_tensor_is_kept_per_sample(dtype: torch.dtype) -> None:
    result = resolve(torch.tensor([0.0, 0.5, 1.0], dtype=dtype))
    assert result is not None and result.sample_speeds.dtype == torch.float32
    assert result.sample_speeds.tolist() == [0.0, 0.5, 1.0]


@pytest.mark.parametrize("speed", [[0.25, 0.1], (0.25, 0.1), ExitRule((2, 3), (0.25, 0.1))])
def test_one_speed_per_student_classifier(speed: object) -> None:
    result = resolve(speed)
    assert result is not None and result.layer_speeds == (0.0, 0.25, 0.1, 0.0, 0.0)
    assert [result.asks(layer) for layer in (1, 2, 3, 4)] == [False, True, True, False]
    assert torch.equal(result.thresholds(3), torch.tensor([0.1] * 3))


def test_rule_says_criterion_and_heads() -> None:
    result = resolve(ExitRule((3,), criterion="patience", patience=2))
    assert result is not None and (result.criterion, result.patience) == ("patience", 2)
    assert [result.asks(layer) for layer in (2, 3)] == [False, True]
    result = resolve(ExitRule((2,), (0.5,), "top_k_entropy", top_k=7))
    assert result is not None and (result.criterion, result.top_k) == ("top_k_entropy", 7)


@pytest.mark.parametrize("speed", [-0.1, 1.1, math.nan, math.inf])
def test_number_outside_range_is_an_error(speed: float) -> None:
    for given in (speed, [0.5, speed]):
        with pytest.raises(ValueError, match=r"\[0, 1\]"):
            resolve(given)
    with pytest.raises(ValueError, match=r"sample\(s\) \[1\]"):
        resolve(torch.tensor([0.5, speed]), batch_size=2)


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 1)])
def test_tensor_of_wrong_shape_is_an_error(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"shape \[2\]"):
        resolve(torch.zeros(shape), batch_size=2)


@pytest.mark.parametrize("speed", ["0.5", True, ["0.5", 0.5], [True, 0.5], torch.tensor([0, 1]), 0.5j, {0.5: 1}])
def test_wrong_type_is_an_error(speed: object) -> None:
    with pytest.raises(TypeError, match="speed"):
        resolve(speed, batch_size=2)


@pytest.mark.parametrize(
    ("speed", "options", "message"),
    [
        (
            [0.5],
            {},
            r"2 student classifiers \(behind layers \[2, 3\]\) is wanted, got 1; one",
        ),
        ([0.5] * 3, {}, "got 3"),
        (ExitRule((1, 2, 5), (0.5,) * 3), {}, r"behind layers \[1, 5\]; this model has them behind \[2, 3\]"),
        (ExitRule((2,), (0.5,), "confidence"), {"multi_label": True}, "mean binary entropy"),
    ],
)
def test_what_does_not_fit_the_model_is_an_error(speed: object, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        resolve(speed, **options)


IDS = torch.ones(3, 4, dtype=torch.int64)


def test_missing_mask_means_all_valid() -> None:
    mask = check_inputs(IDS, None, None, 512)
    assert mask.dtype == torch.bool and mask.all() and mask.shape == (3, 4)


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.int32, torch.float32])
def test_mask_of_any_dtype_becomes_bool(dtype: torch.dtype) -> None:
    given = torch.tensor([[1, 1, 0, 0], [0, 1, 1, 1], [1, 1, 1, 1]]).to(dtype)
    result = check_inputs(IDS.int(), given, torch.zeros_like(IDS), 4)
    assert result.dtype == torch.bool and torch.equal(result, given != 0)


@pytest.mark.parametrize("shape", [(0, 0), (0, 5)])
def test_empty_batch_is_fine(shape: tuple[int, int]) -> None:
    ids = torch.zeros(shape, dtype=torch.int64)
    assert check_inputs(ids, None, None, 512).shape == shape
    assert check_inputs(ids, torch.zeros(shape), ids, 512).shape == shape
    assert make_position_ids(torch.zeros(shape, dtype=torch.bool)).shape == shape


def test_rows_without_a_token_are_named() -> None:
    mask = torch.tensor([[1, 1, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0]])
    with pytest.raises(ValueError, match=r"row\(s\) \[1, 2\]"):
        check_inputs(IDS, mask, None, 512)
    with pytest.raises(ValueError, match=r"row\(s\) \[0, 1\]"):
        check_inputs(torch.zeros(2, 0, dtype=torch.int64), None, None, 512)


@pytest.mark.parametrize("shape", [(3,), (3, 5), (2, 4), (3, 1, 1, 4)])
def test_mask_of_another_shape_is_an_error(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="attention_mask must have the shape"):
        check_inputs(IDS, torch.ones(shape), None, 512)


def test_additive_mask_is_an_error() -> None:
    with pytest.raises(ValueError, match="only 1"):
        check_inputs(IDS, torch.tensor([[0.0, 0.0, -1e4, -1e4]] * 3), None, 512)


def test_input_ids_must_be_a_2d_integer_tensor() -> None:
    with pytest.raises(TypeError, match="int64 or int32, got torch.float32"):
        check_inputs(IDS.float(), None, None, 512)
    with pytest.raises(TypeError, match="must be a tensor, got list"):
        check_inputs([[1, 2]], None, None, 512)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"\[batch, length\]"):
        check_inputs(IDS[0], None, None, 512)


def test_token_type_ids_are_checked() -> None:
    with pytest.raises(ValueError, match="token_type_ids must have the shape"):
        check_inputs(IDS, None, IDS[:, :2], 512)
    with pytest.raises(TypeError, match="token_type_ids must be int64"):
        check_inputs(IDS, None, IDS.float(), 512)


def test_too_long_input_names_the_remedy() -> None:
    with pytest.raises(ValueError, match="truncation=True, max_length=3"):
        check_inputs(IDS, None, None, 3)


def test_positions_start_at_the_first_valid_token() -> None:
    mask = torch.tensor([[1, 1, 1, 0], [0, 0, 1, 1], [0, 1, 0, 1]], dtype=torch.bool)
    assert make_position_ids(mask).tolist() == [[0, 1, 2, 3], [0, 0, 0, 1], [0, 0, 1, 2]]
