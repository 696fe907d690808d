"""What answers the requests for one model, by what its workers take and can be asked for."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from typing import Protocol

from dynamo._core.context import Context
from dynamo._core.errors import InvalidArgument
from dynamo.llm._migration import Migration
from dynamo.llm._model_card import ModelCard, ModelInput, ModelType
from dynamo.llm._openai import ChatRequest, OpenAIRequest
from dynamo.llm._pipeline import TokenPipeline
from dynamo.llm._preprocess import Preprocessor
from dynamo.llm._request_trace import RequestTrace
from dynamo.llm._routing import NO_HINTS, RoutingHints
from dynamo.llm._text_pipeline import TextPipeline

logger = logging.getLogger(__name__)


class Pipeline(Protocol):
    """Answers requests for one model."""

    def stream(
        self, request: OpenAIRequest, context: Context, hints: RoutingHints = NO_HINTS
    ) -> AsyncGenerator[list[bytes], None]:
        """Yield the JSON of the chunks that are ready, until the answer is complete."""

    async def complete(self, request: OpenAIRequest, context: Context, hints: RoutingHints = NO_HINTS) -> bytes:
        """Return the JSON of the whole answer."""


async def pipeline_for(card: ModelCard, migration: Migration, trace: RequestTrace | None) -> Pipeline:
    """Return what answers for the model with this card, which `why_unserved` has nothing against."""
    if card.model_input is ModelInput.Text:
        if trace is not None:
            logger.warning(
                "requests to the model %r are not in the request trace: its workers take text, and what prompts "
                "have in common is not known here", card.display_name,
            )  # fmt: skip
        return TextPipeline(migration)
    return TokenPipeline(await Preprocessor.load(card), migration, trace)


def check_kind(card: ModelCard, request: OpenAIRequest) -> None:
    """Raise `InvalidArgument` for a request of a kind that the model does not answer."""
    kind = ModelType.Chat if isinstance(request, ChatRequest) else ModelType.Completions
    if kind not in card.model_type:
        raise InvalidArgument(
            f"the model {card.display_name!r} answers {card.model_type} requests only",
            param="model",
            code="wrong_model_type",
        )
