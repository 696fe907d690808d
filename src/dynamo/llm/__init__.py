"""Language models on the runtime: register one, serve its engine, and the pipeline between text and tokens."""

from dynamo.llm._engine import Engine
from dynamo.llm._fetch import fetch_llm
from dynamo.llm._messages import (
    CompletionUsage,
    EngineOutput,
    FinishReason,
    OutputOptions,
    PreprocessedRequest,
    SamplingOptions,
    StopConditions,
    TopLogprob,
)
from dynamo.llm._model_card import ModelInput, ModelType
from dynamo.llm._register import register_llm, serve_engine, unregister_llm

__all__ = [
    "CompletionUsage",
    "Engine",
    "EngineOutput",
    "FinishReason",
    "ModelInput",
    "ModelType",
    "OutputOptions",
    "PreprocessedRequest",
    "SamplingOptions",
    "StopConditions",
    "TopLogprob",
    "fetch_llm",
    "register_llm",
    "serve_engine",
    "unregister_llm",
]
