"""`dynamo run`, from its words to its exit status."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine, Mapping, Sequence

from dynamo._core.errors import ConfigError, DynamoError, WrongUsage
from dynamo._core.exit_status import FAILED, USAGE
from dynamo.cli._run_engines import engine_fields, prepare, run_worker
from dynamo.cli._run_options import RunOptions, refuse_useless
from dynamo.cli._run_words import Batch, Http, Input, Local, Output, Text, WorkerAt, parse_words
from dynamo.cli._run_workers import WorkersElsewhere
from dynamo.entrypoint._answering import Answering
from dynamo.entrypoint._who import EngineHere
from dynamo.runtime._logging import LEVEL_VARIABLE, set_up_logging
from dynamo.runtime._process import failed

#: What is logged where the output is for a person to read: trouble, and on which device the model runs.
_QUIET = "warning,dynamo.transformers=info"


def start(words: Sequence[str], options: RunOptions) -> int:
    """Run; return the exit status. What goes wrong is one line on stderr."""
    try:
        asks, answers = parse_words(words)
        fields = engine_fields(answers) if isinstance(answers, Local) else frozenset[str]()
        refuse_useless(options, asks, answers, fields)
        if isinstance(asks, WorkerAt):
            assert isinstance(answers, Local)
            return run_worker(answers, asks.endpoint, options.model_name, options.engine)
        environ = dict(os.environ)
        answering = _answering(answers, options, environ)
        work = _work(asks, answering, options, environ)
    except ConfigError as error:
        return failed(error, USAGE)
    try:
        return _run(work)
    except DynamoError as error:
        return failed(error, USAGE if isinstance(error, WrongUsage) else FAILED)


def _answering(answers: Output, options: RunOptions, environ: Mapping[str, str]) -> Answering:
    if isinstance(answers, Local):
        return EngineHere(prepare(answers, options.model_name, options.engine, environ))
    return WorkersElsewhere(answers.endpoint, options.model_name, options.wait_s, environ)


def _work(
    asks: Input, answering: Answering, options: RunOptions, environ: Mapping[str, str]
) -> Coroutine[object, object, int]:
    """Return what is to be done, with everything checked that can be checked before."""
    if isinstance(asks, Http):
        from dynamo.cli._run_http import frontend_config, serve_http

        set_up_logging(environ)
        return serve_http(answering, frontend_config(answering, options, environ))
    set_up_logging({**environ, LEVEL_VARIABLE: environ.get(LEVEL_VARIABLE) or _QUIET})
    if isinstance(asks, Batch):
        from dynamo.entrypoint._batch import output_file, run_batch

        return run_batch(answering, asks.file, output_file(asks.file, options.asking), options.asking)
    assert isinstance(asks, Text)
    from dynamo.entrypoint._text import run_text

    return run_text(answering, options.asking)


def _run(work: Coroutine[object, object, int]) -> int:
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
        return loop.run(work)
