"""The bodies of requests and answers, as the OpenAPI document has them."""

from __future__ import annotations

from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic_core import PydanticCustomError

from fastbert_hf.data import Text

_TEXT = "a text is a string, or a pair of strings"


class Inputs(NamedTuple):
    """The texts of a request, and whether the answer is a list with an entry for each."""

    texts: list[Text]
    is_batch: bool


class PredictRequest(BaseModel):
    """Texts to classify, and when they may leave."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"example": {"inputs": "A fine film.", "speed": 0.3, "details": True}}
    )

    inputs: str | list[str] | list[list[str]] = Field(
        description='A text ("..."), a pair (["...", "..."]), or a batch of texts ([["..."], ["..."]]) or of pairs.'
    )
    truncate: bool = Field(False, description="Cut texts off that are too long, instead of refusing them.")
    raw_scores: bool = Field(False, description="Answer with logits in place of probabilities.")
    details: bool = Field(False, description="Answer with uncertainty and exit layer of every text beside its scores.")
    speed: float | None = Field(
        None,
        ge=0,
        le=1,
        description="A text leaves at the first layer whose uncertainty is below it. Default: the calibrated setting, "
        "or full depth where the model has none.",
    )
    speedup: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="Instead, the FLOPs speed-up wanted of a calibrated model."
    )
    deadline_ms: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="After so many milliseconds nobody wants the answer any more: texts with a deadline go first when "
        "they have to, and past it the request gets status 504.",
    )

    @field_validator("inputs", mode="before")
    @classmethod
    def _texts(cls, value: Any) -> Any:
        """Say what is wrong by position, and never by repeating a text."""
        read_inputs(value)
        return value


def read_inputs(value: Any) -> Inputs:
    """Return the texts of `inputs`.

    Raises:
        PydanticCustomError: a value that is none of what it may be, with the position of the text in question.
    """
    if isinstance(value, str):
        return Inputs([value], False)
    if not isinstance(value, list) or not value:
        raise _wrong(f"inputs must be a text, a pair, or a batch of at least one; {_TEXT}")
    if all(isinstance(part, str) for part in value):
        if len(value) > 2:
            raise _wrong(
                f"inputs is a list of {len(value)} strings, which is no pair; a batch is a list of lists: "
                '[["first text"], ["second text"]]'
            )
        return Inputs([value[0] if len(value) == 1 else (value[0], value[1])], False)
    for position, parts in enumerate(value):
        if not isinstance(parts, list) or len(parts) not in (1, 2) or not all(isinstance(part, str) for part in parts):
            raise _wrong(f"text {position} (counted from 0) is not a list of one or two strings; {_TEXT}")
    return Inputs([parts[0] if len(parts) == 1 else (parts[0], parts[1]) for parts in value], True)


def _wrong(message: str) -> PydanticCustomError:
    return PydanticCustomError("inputs", "{message}", {"message": message})


class Score(BaseModel):
    """A class and its probability, or its logit with `raw_scores`."""

    label: str
    score: float


class Details(BaseModel):
    """The answer of a text with `details`."""

    predictions: list[Score] = Field(description="All classes, the most likely first.")
    exit_layer: int = Field(description="Number of encoder layers that ran for the text.")
    uncertainty: float = Field(
        description="That of the answer, which was below the Speed unless the text ran to the end."
    )
    truncated: bool = Field(description="Whether the text was cut off.")


Answer = list[Score] | Details


class ErrorBody(BaseModel):
    """Why there is no answer."""

    error: str
    error_type: str = Field(
        description="Validation, TooLarge, Overloaded, Unauthorized, Deadline, Unhealthy, NotFinite, NotFound or "
        "Internal."
    )


class Info(BaseModel):
    """What is served."""

    model_id: str
    model_dtype: str = Field(description="Precision in which the model runs.")
    model_type: dict[str, Any] = Field(description="Its classes, as {'classifier': {'id2label', 'label2id'}}.")
    num_layers: int
    exit_layers: list[int]
    calibrated: bool = Field(description="Whether texts leave by a calibrated setting where a request says nothing.")
    max_input_length: int = Field(description="Tokens of a text.")
    max_client_batch_size: int = Field(description="Texts of a request.")
    max_concurrent_requests: int
    max_batch_tokens: int = Field(description="Tokens of all texts in flight together.")
    version: str
