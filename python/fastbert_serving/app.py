"""The endpoints of the server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any, TypeVar

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.security import HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException

import fastbert_kernels
from fastbert_hf.data import Text
from fastbert_serving import rows
from fastbert_serving.admission import Admitted, is_ready, not_ready
from fastbert_serving.errors import Refusal, invalid, of_other_models, too_large
from fastbert_serving.faults import fault_of
from fastbert_serving.metrics import Metrics
from fastbert_serving.middleware import Guarded, Observed, refusal_response
from fastbert_serving.schema import (
    Answer,
    Asked,
    ErrorBody,
    Info,
    PredictRequest,
    Rank,
    RerankRequest,
    read_inputs,
)
from fastbert_serving.service import Service, TextAnswers
from fastbert_serving.settings import Settings

T = TypeVar("T")

_KINDS = {408: "Timeout", 413: "TooLarge", 404: "NotFound", 405: "NotFound"}
_REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody, "description": HTTPStatus(status).phrase}
    for status in (401, 408, 413, 422, 429, 500, 503, 504)
}


def create_app(service: Service, settings: Settings, metrics: Metrics, *, model_id: str, precision: str) -> FastAPI:
    """Return the application, which owns the service: it warms up when the application starts, and is closed with it.

    Args:
        service: that answers.
        settings: limits.
        metrics: of the service.
        model_id: name of the model for /info; no path.
        precision: in which the model runs, for /info.
    """
    server = _Server(service, settings, metrics)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        try:
            await service.answer([("warm", "up") if service.gives_scores else "warm up"], speed=0.0, truncate=True)
            app.state.warm = True
            yield
        finally:
            app.state.warm = False
            await asyncio.get_running_loop().run_in_executor(None, service.close)

    app = FastAPI(title="fastbert", version=fastbert_kernels.__version__, lifespan=lifespan, redoc_url=None)
    app.state.warm = False
    app.state.ending = False  # whoever runs the application says so as soon as it is told to end
    app.add_middleware(Admitted, max_concurrent=settings.max_concurrent, metrics=metrics)
    app.add_middleware(Guarded, api_key=settings.api_key, max_body=settings.max_body, metrics=metrics)
    app.add_middleware(Observed, metrics=metrics)
    app.add_exception_handler(Refusal, server.refused)
    app.add_exception_handler(RequestValidationError, server.not_valid)
    app.add_exception_handler(HTTPException, server.http_error)
    app.add_exception_handler(Exception, server.failed)
    info = _info(service, settings, model_id, precision)
    # `Guarded` asks for the key; this says so in the OpenAPI document.
    locked = [] if settings.api_key is None else [Depends(HTTPBearer(auto_error=False))]

    if service.gives_scores:

        @app.post("/rerank", response_model=list[Rank], responses=_REFUSALS, dependencies=locked)
        async def rerank(body: RerankRequest, request: Request) -> Any:
            """Put texts in the order of their scores as answers to a query, the best first."""
            return JSONResponse(await server.rerank(body, request))

    else:

        @app.post("/predict", response_model=Answer | list[Answer], responses=_REFUSALS, dependencies=locked)
        async def predict(body: PredictRequest, request: Request) -> Any:
            """Classify a text, a pair, or a batch of either."""
            return JSONResponse(await server.predict(body, request))

    @app.post("/predict" if service.gives_scores else "/rerank", include_in_schema=False)
    async def not_of_this_model() -> None:
        raise of_other_models(gives_scores=service.gives_scores)

    @app.get("/info", responses={401: _REFUSALS[401]}, dependencies=locked)
    async def show_info() -> Info:
        """Say what is served, and its limits."""
        return info

    @app.get("/health", response_class=Response, responses={503: _REFUSALS[503]})
    async def health() -> Response:
        """200 when texts are answered; 503 from the moment on in which the server is told to end."""
        if not is_ready(app.state):
            raise not_ready()
        return Response()

    @app.get("/metrics", response_class=Response, responses={401: _REFUSALS[401]}, dependencies=locked)
    def show_metrics() -> Response:  # in a thread: intervals of the audit take milliseconds
        """The measures, in Prometheus's text format."""
        return Response(metrics.page(), media_type=CONTENT_TYPE_LATEST)

    return app


def _info(service: Service, settings: Settings, model_id: str, precision: str) -> Info:
    config = service.model.config
    names = {"id2label": config.id2label, "label2id": config.label2id}
    return Info(
        model_id=model_id,
        model_dtype=precision,
        model_type={"reranker" if service.gives_scores else "classifier": names},
        num_layers=config.num_hidden_layers,
        exit_layers=list(config.exit_layers),
        calibrated=service.model.calibrated_setting is not None,
        audit=settings.audit,
        target_p99_ms=None if settings.target_p99 is None else 1000 * settings.target_p99,
        max_input_length=service.max_length,
        max_client_batch_size=settings.max_texts,
        max_concurrent_requests=settings.max_concurrent,
        max_batch_tokens=settings.max_tokens,
        version=fastbert_kernels.__version__,
    )


class _Server:
    """What the endpoints share."""

    def __init__(self, service: Service, settings: Settings, metrics: Metrics) -> None:
        self._service, self._settings, self._metrics = service, settings, metrics
        self._asked: type[Asked] = RerankRequest if service.gives_scores else PredictRequest

    async def predict(self, body: PredictRequest, request: Request) -> Any:
        texts, is_batch = read_inputs(body.inputs)
        answers = await self._answer(texts, body.speed, body, request)
        config = self._service.model.config
        found = rows.predicted(
            answers,
            config.id2label,
            raw=body.raw_scores,
            multi_label=config.multi_label,
            details=body.details,
        )
        return found if is_batch else found[0]

    async def rerank(self, body: RerankRequest, request: Request) -> Any:
        answers = await self._answer([(body.query, text) for text in body.texts], body.speed, body, request)
        return rows.ranked(answers, body.texts if body.return_text else None, raw=body.raw_scores, details=body.details)

    async def _answer(self, texts: Sequence[Text], speed: float | None, asked: Asked, request: Request) -> TextAnswers:
        """Answer the texts of a request, as long as its client is there."""
        facts = request.state.facts = {"texts": len(texts)}
        if len(texts) > self._settings.max_texts:
            raise too_large(
                f"the request has {len(texts)} texts, more than {self._settings.max_texts}; send them in parts"
            )
        if speed is not None and asked.speedup is not None:
            raise invalid("give either speed or speedup, not both")
        side = self._service.truncation_side
        if asked.truncation_direction is not None and asked.truncation_direction.lower() != side:
            raise invalid(f"truncation_direction: this model's texts are cut off on the {side}; shorten them yourself")
        answers = await self._unless_disconnected(
            self._service.answer(
                texts,
                speed=speed,
                speedup=asked.speedup,
                seconds=None if asked.deadline_ms is None else asked.deadline_ms / 1000,
                truncate=bool(asked.truncate),
            ),
            request,
        )
        facts |= {"tokens": answers.tokens, "mean_exit_layer": sum(answers.exit_layer) / len(texts)}
        if self._settings.fast_setting is not None:
            facts["setting"] = answers.setting
        return answers

    async def _unless_disconnected(self, answers: Awaitable[T], request: Request) -> T:
        """Await the answers of a request; when its client leaves first, let its texts go."""
        work, gone = asyncio.ensure_future(answers), asyncio.ensure_future(_disconnected(request))
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                self._metrics.cancelled.inc()
                raise Refusal(499, "Disconnected", "the client left before there was an answer")
            return work.result()
        finally:
            gone.cancel()
            work.cancel()

    async def refused(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, Refusal)
        self._metrics.failures.labels(error.kind).inc()
        return refusal_response(error)

    async def not_valid(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return await self.refused(request, invalid(fault_of(error, self._asked)))

    async def http_error(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if error.status_code == 400:  # a body that breaks the parser, such as a thousand brackets
            return await self.refused(request, invalid("the body cannot be read as JSON"))
        kind = _KINDS.get(error.status_code, "Validation")
        return await self.refused(request, Refusal(error.status_code, kind, str(error.detail), headers=error.headers))

    async def failed(self, request: Request, error: Exception) -> Response:
        """Say no more than that it was the server's own fault."""
        return await self.refused(request, Refusal(500, "Internal", "the server failed; its log says how"))


async def _disconnected(request: Request) -> None:
    """Return when the client has left; its whole request has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
