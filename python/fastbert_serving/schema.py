"""The bodies of requests and answers, as the OpenAPI document has them."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic_core import PydanticCustomError

from fastbert_hf.data import Text

_TEXT = "a text is a string, or a pair of strings"


class Inputs(NamedTuple):
    """The texts of a request, and whether the answer is a list with an entry for each."""

    texts: list[Text]
    is_batch: bool


# For the OpenAPI document; the validators say what is wrong, and where.
_SomeText = Annotated[str, Field(json_schema_extra={"minLength": 1, "pattern": r"\S"})]
_OneText = Annotated[list[_SomeText], Field(json_schema_extra={"minItems": 1, "maxItems": 1})]
_Pair = Annotated[list[_SomeText], Field(json_schema_extra={"minItems": 2, "maxItems": 2})]
_Batch = Annotated[list[_OneText | _Pair], Field(json_schema_extra={"minItems": 1})]

_Above0 = Annotated[float | None, Field(gt=0, allow_inf_nan=False)]


class Asked(BaseModel):
    """What requests of all kinds may say of their texts."""

    model_config = ConfigDict(extra="forbid", strict=True)  # "yes" is no boolean, and "0.3" no number

    truncate: bool | None = Field(
        False, description="Cut texts off that are too long, instead of refusing them. null: the default."
    )
    truncation_direction: Literal["right", "left", "Right", "Left"] | None = Field(
        None, description="Where texts are cut off, which is the model's own: another side is refused. null: wherever."
    )
    details: bool = Field(False, description="Answer with exit layer and setting of every text beside its scores.")
    speedup: _Above0 = Field(None, description="Instead of speed, the FLOPs speed-up wanted of a calibrated model.")
    deadline_ms: _Above0 = Field(
        None,
        description="After so many milliseconds nobody wants the answer any more: texts with a deadline go first when "
        "they have to, and past it the request gets status 504.",
    )


class PredictRequest(Asked):
    """Texts to classify, and when they may leave."""

    model_config = ConfigDict(json_schema_extra={"example": {"inputs": "A fine film.", "speed": 0.3, "details": True}})

    inputs: _SomeText | _OneText | _Pair | _Batch = Field(
        description='A text ("..."), a pair (["...", "..."]), or a batch of them ([["..."], ["...", "..."]]).'
    )
    raw_scores: bool = Field(False, description="Answer with logits in place of probabilities.")
    speed: float | None = Field(
        None,
        ge=0,
        le=1,
        description="A text leaves at the first layer whose uncertainty is below it. Default: the calibrated setting, "
        "or full depth where the model has none.",
    )

    @field_validator("inputs", mode="before")
    @classmethod
    def _texts(cls, value: Any) -> Any:
        """Say what is wrong by position, and never by repeating a text."""
        read_inputs(value)
        return value


class RerankRequest(Asked):
    """A query, and the texts to put in the order of their scores as answers to it."""

    model_config = ConfigDict(
        json_schema_extra={"example": {"query": "how to read a file", "texts": ["Open a path.", "Add two numbers."]}}
    )

    query: _SomeText
    texts: Annotated[list[_SomeText], Field(json_schema_extra={"minItems": 1})]
    raw_scores: bool = Field(False, description="Answer with the model's scores as they are, not their sigmoid.")
    return_text: bool = Field(False, description="Answer with the texts, too.")
    speed: float | None = Field(
        None,
        ge=0,
        allow_inf_nan=False,
        description="A text leaves at the first layer whose score is less than this from that of the exit head before. "
        "Default: the calibrated setting, or full depth where the model has none.",
    )

    @field_validator("query", mode="before")
    @classmethod
    def _query(cls, value: Any) -> Any:
        """Refuse what is no text without repeating it."""
        if not isinstance(value, str) or not value.strip():
            raise _wrong("query must be a string that is not empty")
        return value

    @field_validator("texts", mode="before")
    @classmethod
    def _ranked(cls, value: Any) -> Any:
        """Say what is wrong by position, and never by repeating a text."""
        if not isinstance(value, list) or not value:
            raise _wrong("texts must be a list of at least one string")
        for position, text in enumerate(value):
            if not isinstance(text, str):
                raise _wrong(f"text {position} (counted from 0) is not a string")
            if not text.strip():
                raise _wrong(f"text {position} (counted from 0) is empty; leave it out or fill it in")
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


class _Course(BaseModel):
    """How a text came to its answer."""

    exit_layer: int = Field(description="Number of encoder layers that ran for the text.")
    truncated: bool = Field(description="Whether the text was cut off.")
    setting: str | None = Field(
        description="calibrated: it left by the model's calibrated setting; fast: by the one for times of load; null: "
        "as the request said, or at full depth."
    )


class Details(_Course):
    """The answer of a text with `details`."""

    predictions: list[Score] = Field(description="All classes, the most likely first.")
    uncertainty: float = Field(
        description="That of the answer, which was below the Speed unless the text ran to the end."
    )


Answer = list[Score] | Details


class Rank(BaseModel):
    """A text of /rerank, in the place that its score gives it."""

    index: int = Field(description="Position in the request.")
    score: float = Field(description="The sigmoid of the model's score, or the score itself with `raw_scores`.")
    text: str | None = Field(None, description="With `return_text`.")
    exit_layer: int | None = Field(None, description="With `details`, and so the others.")
    truncated: bool | None = None
    setting: str | None = None


class ErrorBody(BaseModel):
    """Why there is no answer."""

    error: str
    error_type: str = Field(
        description="Validation, TooLarge, Overloaded, Unauthorized, Deadline, Unhealthy, Timeout, NotFinite, "
        "NotFound or Internal."
    )


class Info(BaseModel):
    """What is served."""

    model_id: str
    model_dtype: str = Field(description="Precision in which the model runs.")
    model_type: dict[str, Any] = Field(
        description="Its classes, as {'classifier': {'id2label', 'label2id'}}; {'reranker': ...}: one score."
    )
    num_layers: int
    exit_layers: list[int]
    calibrated: bool = Field(description="Whether texts leave by a calibrated setting where a request says nothing.")
    audit: float | None = Field(description="Share of the texts that run to full depth as well, to be compared.")
    target_p99_ms: float | None = Field(
        description="Above which, as predicted, texts leave by the fast setting; null: never."
    )
    max_input_length: int = Field(description="Tokens of a text.")
    max_client_batch_size: int = Field(description="Texts of a request.")
    max_concurrent_requests: int
    max_batch_tokens: int = Field(description="Tokens of a request, and of all texts in flight for one more to enter.")
    version: str
