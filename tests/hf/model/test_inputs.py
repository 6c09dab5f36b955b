from __future__ import annotations

import pytest
import torch

from fastbert_hf.inputs import check_class_ids, check_inputs, make_position_ids

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


def test_positions_that_go_by_the_ids() -> None:
    mask = torch.tensor([[1, 1, 1, 0], [0, 0, 1, 1], [0, 1, 0, 1], [1, 1, 1, 1]], dtype=torch.bool)
    counted = torch.tensor([[1, 0, 1, 0], [0, 0, 1, 1], [0, 1, 0, 1], [0, 1, 0, 1]], dtype=torch.bool)
    expected = [[2, 1, 3, 1], [1, 1, 2, 3], [1, 2, 1, 3], [1, 2, 1, 3]]
    assert make_position_ids(mask, 2, counted).tolist() == expected
    unlike_padding = torch.ones_like(mask)  # ids of the caller's own under a mask of 0 move no text
    assert torch.equal(make_position_ids(mask, 2, unlike_padding), make_position_ids(mask, 2))


def test_mask_must_be_a_tensor_on_the_device_of_the_ids() -> None:
    with pytest.raises(TypeError, match="attention_mask must be a tensor, got list"):
        check_inputs(IDS, [[1, 1, 1, 1]] * 3, None, 512)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="attention_mask is on meta but input_ids is on cpu"):
        check_inputs(IDS, torch.ones(IDS.shape, device="meta"), None, 512)


@pytest.mark.parametrize("labels", [[0, 1], torch.tensor([True, False]), torch.zeros(2, dtype=torch.complex64)])
def test_labels_must_be_numbers(labels: object) -> None:
    with pytest.raises(TypeError, match="labels must be a tensor of class ids"):
        check_class_ids(labels, torch.zeros(2, 3))  # type: ignore[arg-type]
