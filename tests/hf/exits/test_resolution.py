from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fastbert_hf.exits.criteria import MULTI_LABEL, ONE_OUTPUT
from fastbert_hf.exits.resolution import resolve_speed
from fastbert_hf.exits.rule import ExitRule


def resolve(speed: object, batch_size: int = 3, **options: object):
    return resolve_speed(speed, batch_size=batch_size, device="cpu", exit_layers=[2, 3, 5], **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "speed",
    [None, 0, 0.0, [0, 0.0], ExitRule(()), ExitRule.full_depth("patience", 1), ExitRule((2,), (0.0,), "confidence")],
)
def test_where_nobody_can_leave_it_is_full_depth(speed: object) -> None:
    result = resolve(speed)
    assert result.is_full_depth and result.layer_speeds == (None,) * 5 and result.criterion == "entropy"


@pytest.mark.parametrize("speed", [1, 0.25, np.float32(0.25)])
def test_number_becomes_one_threshold_per_sample(speed: float) -> None:
    result = resolve(speed)
    assert result.layer_speeds == (None, math.inf, math.inf, None, None) and not result.is_full_depth
    assert (result.criterion, result.parameter) == ("entropy", 0)
    assert result.sample_speeds.dtype == torch.float32 and result.sample_speeds.tolist() == [float(speed)] * 3
    assert torch.equal(result.thresholds(2), result.sample_speeds) and result.asks(2)


@pytest.mark.parametrize("speed", [1e300, [1e300, 2e300], ExitRule((2, 3), (1e300, 3.0), "stability")])
def test_a_change_of_score_that_float32_does_not_have_lets_everybody_leave(speed: object) -> None:
    result = resolve(speed, problem_type=ONE_OUTPUT)
    assert result.thresholds(2).tolist() == [math.inf] * 3


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_tensor_is_kept_per_sample(dtype: torch.dtype) -> None:
    result = resolve(torch.tensor([0.0, 0.5, 1.0], dtype=dtype))
    assert result.sample_speeds.dtype == torch.float32
    assert result.sample_speeds.tolist() == [0.0, 0.5, 1.0]


@pytest.mark.parametrize("speed", [[0.25, 0.1], (0.25, 0.1), ExitRule((2, 3), (0.25, 0.1))])
def test_one_speed_per_student_classifier(speed: object) -> None:
    result = resolve(speed)
    assert result.layer_speeds == (None, 0.25, 0.1, None, None)
    assert [result.asks(layer) for layer in (1, 2, 3, 4)] == [False, True, True, False]
    assert torch.equal(result.thresholds(3), torch.tensor([0.1] * 3))


def test_rule_says_criterion_and_heads() -> None:
    result = resolve(ExitRule((3,), (), "patience", 2))
    assert (result.criterion, result.parameter) == ("patience", 2) and result.layer_speeds[2] == math.inf
    assert [result.asks(layer) for layer in (2, 3)] == [False, True]
    result = resolve(ExitRule((2,), (0.5,), "top_k_entropy", 7))
    assert (result.criterion, result.parameter) == ("top_k_entropy", 7)


def test_heads_with_speed_0_are_not_asked() -> None:
    result = resolve([0.0, 0.3])
    assert result.layer_speeds == (None, None, 0.3, None, None) and not result.is_full_depth


@pytest.mark.parametrize(
    "speed", [None, 0.0, 0.5, [0.0, 0.3], torch.ones(3), ExitRule(()), ExitRule.full_depth("margin")]
)
def test_a_multi_label_model_has_its_own_criterion(speed: object) -> None:
    assert resolve(speed, problem_type=MULTI_LABEL).criterion == "binary_entropy"
    assert resolve(speed, problem_type="single_label_classification").criterion == "entropy"


@pytest.mark.parametrize("speed", [2.5, [7.0, 1.0], torch.full((3,), 9.0), ExitRule((3,), (4.0,), "stability")])
def test_speeds_of_a_model_with_one_output_are_on_the_scale_of_its_score(speed: object) -> None:
    assert resolve(speed, problem_type=ONE_OUTPUT).criterion == "stability"
    assert resolve(None, problem_type=ONE_OUTPUT).criterion == "stability"


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
        (ExitRule((2,), (0.5,)), {"problem_type": MULTI_LABEL}, r"'entropy' is for models .* leave by binary_entropy"),
        (ExitRule((2,), (), "patience", 2), {"problem_type": MULTI_LABEL}, "'patience' is for .* by binary_entropy"),
        (ExitRule((2,), (0.5,)), {"problem_type": ONE_OUTPUT}, "leave by stability"),
        (ExitRule((2,), (0.5,), "stability"), {}, "'stability' is for models of the problem_type 'regression'"),
        (-0.5, {"problem_type": ONE_OUTPUT}, "speed must be a finite number of at least 0 and not be NaN, got -0.5"),
        (math.inf, {"problem_type": ONE_OUTPUT}, "must be a finite number of at least 0"),
        (
            torch.tensor([0.0, math.nan, 2.0]),
            {"problem_type": ONE_OUTPUT},
            r"at least 0 .*got nan; wrong for sample\(s\) \[1\]",
        ),
        (ExitRule((2,), (0.5,), "binary_entropy"), {}, "'binary_entropy' is for .* leave by entropy or top_k"),
    ],
)
def test_what_does_not_fit_the_model_is_an_error(speed: object, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        resolve(speed, **options)
