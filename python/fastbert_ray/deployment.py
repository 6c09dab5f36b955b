"""Ray Serve: replicas that each hold the model and answer as `fastbert serve` does."""

# No `from __future__ import annotations`: `serve run` reads the class of build's argument from its signature.
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from ray.serve.config import AutoscalingConfig
from typing_extensions import Unpack

import fastbert_kernels
from fastbert_hf.data import Text
from fastbert_ray.model_folder import Dtype, check_folder, load_patched
from fastbert_serving import handle
from fastbert_serving.app import create_app
from fastbert_serving.key import key_of
from fastbert_serving.metrics import Metrics
from fastbert_serving.service import Service
from fastbert_serving.settings import Settings


class Options(BaseModel):
    """What is deployed, and on how much.

    `serve run fastbert_ray.deployment:build model=DIR num_cpus=2` sets the same fields.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field(description="Folder of a saved FastBERT and its tokenizer, under this path on every machine.")
    dtype: Dtype = Field("weights", description="Precision, as of fastbert_kernels.patch.")
    num_cpus: int = Field(1, ge=1, description="Processors of a replica, and threads that compute in it.")
    min_replicas: int = Field(1, ge=1, description="Replicas that are always there.")
    max_replicas: int = Field(4, ge=1, description="Replicas at most.")
    target_ongoing_requests: float = Field(
        16, gt=0, description="Requests in a replica or on their way to it, on average, beyond which one is added."
    )
    upscale_delay_s: float = Field(10, ge=0, description="So long there must be too many before one is added.")
    max_ongoing_requests: int = Field(64, ge=1, description="Requests in one replica; others wait for a place.")
    max_queued_requests: int = Field(
        1024, ge=-1, description="Requests that wait, at a proxy or handle; one more gets status 503. -1: no limit."
    )
    max_tokens: int = Field(
        65_536, ge=1, description="Tokens of texts in one replica, from which on new requests get status 429."
    )
    max_length: int | None = Field(None, ge=1, description="Longest text, in tokens. Default: as in training.")


def build(options: Options) -> serve.Application:
    """Return the application, to be run with `serve.run` or `serve run`.

    Over HTTP it is `fastbert serve`, with the same requests, answers and refusals (docs/serving.md); a variable
    FASTBERT_API_KEY of the replicas is the key that requests must bring, and may not be empty. A handle has the methods
    of `Replica`.

    Raises:
        ValueError: more replicas at least than at most.
    """
    scaling = AutoscalingConfig(
        min_replicas=options.min_replicas,
        max_replicas=options.max_replicas,
        target_ongoing_requests=options.target_ongoing_requests,
        upscale_delay_s=options.upscale_delay_s,
    )
    deployment = serve.deployment(
        name="fastbert",
        ray_actor_options={"num_cpus": options.num_cpus},
        autoscaling_config=scaling,
        max_ongoing_requests=options.max_ongoing_requests,
        max_queued_requests=options.max_queued_requests,
    )
    return deployment(serve.ingress()(Replica)).bind(options)


class Replica:
    """A model and its pool in a process of Ray."""

    def __init__(self, options: Options) -> None:
        """Load and patch the model; errors are those of `fastbert_ray.model_folder`, `Service` and
        `fastbert_serving.key`."""
        folder = check_folder(options.model)
        model, tokenizer = load_patched(folder, options.dtype, options.num_cpus)
        self._settings = Settings(
            api_key=key_of(),
            max_concurrent=options.max_ongoing_requests,
            max_tokens=options.max_tokens,
            max_length=options.max_length,
        )
        self._metrics = Metrics(model.config.num_hidden_layers)
        self._service = Service(model, tokenizer, self._settings, self._metrics)
        self._name = folder.name

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Return what answers HTTP; Serve asks for it, warms it up and closes it with the replica."""
        model = self._service.model
        patched: Any = fastbert_kernels.patch_info(model)
        return create_app(
            self._service, self._settings, self._metrics, model_id=self._name, precision=str(patched["precision"])
        )

    async def predict(self, texts: Sequence[Text], **options: Unpack[handle.AnswerOptions]) -> list[dict[str, Any]]:
        """Classify texts or pairs; see `fastbert_serving.handle.predict`, also for what is refused."""
        return await handle.predict(self._service, texts, **options)

    async def rerank(
        self, query: str, texts: Sequence[str], **options: Unpack[handle.AnswerOptions]
    ) -> list[dict[str, Any]]:
        """Put texts in the order of their scores, of a model with one output; see `fastbert_serving.handle.rerank`."""
        return await handle.rerank(self._service, query, texts, **options)
