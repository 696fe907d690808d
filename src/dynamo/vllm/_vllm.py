"""vLLM: the only file that imports it, and the only one that is imported where vLLM is known to be.

`AsyncLLM` runs in this process; what computes are processes of its own. They are spawned, not forked: a fork would
have our sockets, and the lock by which others see that we live.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from typing import NoReturn

from vllm import SamplingParams
from vllm.config import KVEventsConfig, VllmConfig
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.exceptions import GracefulHTTPError, VLLMClientError
from vllm.outputs import RequestOutput
from vllm.sampling_params import RequestOutputKind
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError
from vllm.v1.executor import Executor
from vllm.v1.executor.multiproc_executor import MultiprocExecutor
from vllm.v1.executor.uniproc_executor import UniProcExecutor

from dynamo._core.errors import ConfigError, DynamoError, EngineShutdown, InvalidArgument, Overloaded
from dynamo.vllm._core import CoreFacts, KvEventSource, Produced
from dynamo.vllm._guard import end_with_parent

log = logging.getLogger(__name__)

#: Tokens of the request that vLLM answers before anybody else's: the first one takes seconds.
TRIAL_TOKENS = 8
#: vLLM counts a "port" up for each data parallel rank, and takes a path for an address with one if it has this.
_PORT = "tcp:1"


class _Parser(FlexibleArgumentParser):
    """vLLM's, whose complaints are errors like any other wrong setting."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message} (python -m dynamo.vllm -- --help shows the options of vLLM)") from None


def _parser() -> _Parser:
    parser = _Parser(prog="python -m dynamo.vllm --", description="The options of vLLM's engine.", allow_abbrev=False)
    AsyncEngineArgs.add_cli_args(parser)
    # Whether they were given is seen.
    parser.set_defaults(model=None, served_model_name=None, max_model_len=None)
    return parser


def show_help() -> None:
    """Print the options of vLLM's engine."""
    # Without a topic vLLM prints the names of its topics only.
    _parser().parse_args(["--help=all"])


def engine_args(
    arguments: Sequence[str], *, model_path: str, model_name: str, context_length: int | None, sockets: str
) -> AsyncEngineArgs:
    """Read the arguments for vLLM. Raises `ConfigError`.

    Without a word on KV events it publishes them at sockets in the directory `sockets`, which should be private.
    """
    given = _parser().parse_args(list(arguments))
    for name, ours in (("model", "--model-path"), ("served_model_name", "--model-name")):
        if getattr(given, name) is not None:
            raise ConfigError(f"--{name.replace('_', '-')} is not for vLLM here: give {ours}", setting=name)
    if given.max_model_len is not None and context_length is not None:
        raise ConfigError("--max-model-len and --context-length say the same: give one of them")
    given.model, given.served_model_name = model_path, [model_name]
    given.max_model_len = given.max_model_len or context_length
    if given.kv_events_config is None and given.enable_prefix_caching is not False:
        given.kv_events_config = KVEventsConfig(
            enable_kv_cache_events=True,
            publisher="zmq",
            endpoint=f"ipc://{sockets}/events.{_PORT}",
            replay_endpoint=f"ipc://{sockets}/replay.{_PORT}",
        )
    args: AsyncEngineArgs = AsyncEngineArgs.from_cli_args(given)
    return args


class VllmCore:
    """A `Core`: vLLM's `AsyncLLM`. To be made in a thread; then `try_out` in the event loop."""

    def __init__(self, args: AsyncEngineArgs) -> None:
        os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"
        with _starting():
            config = args.create_engine_config()
            self._llm = AsyncLLM(
                vllm_config=config,
                executor_class=_guarded(Executor.get_class(config)),
                log_stats=not args.disable_log_stats,
                log_requests=args.enable_log_requests,
            )
        self._is_closed = False
        self.facts = _facts(self._llm)

    async def try_out(self) -> None:
        """Answer a request of our own: what vLLM makes ready at its first one is ready then."""
        # Once it knows its tasks, a request is known to it as soon as it is waited for.
        await self._llm.get_supported_tasks()
        token_ids = list(range(min(TRIAL_TOKENS, self.facts.vocab_size)))[: self.facts.max_context_length - 1]
        sampling = {"max_tokens": 1, "temperature": 0.0, "ignore_eos": True}
        for dp_rank in range(self.facts.data_parallel_size):
            async with aclosing(self.generate(token_ids, sampling, f"trial-{dp_rank}", dp_rank)) as trial:
                async for _ in trial:
                    pass

    async def generate(
        self,
        token_ids: list[int],
        sampling: Mapping[str, object],
        request_id: str,
        dp_rank: int | None,
        cache_salt: str | None = None,
    ) -> AsyncGenerator[Produced, None]:
        """See `Core`."""
        prompt: dict[str, object] = {"type": "token", "prompt_token_ids": token_ids}
        if cache_salt:
            prompt["cache_salt"] = cache_salt
        with _answering():
            params = SamplingParams(detokenize=False, output_kind=RequestOutputKind.DELTA, skip_clone=True, **sampling)
            outputs = self._llm.generate(prompt, params, request_id, data_parallel_rank=dp_rank)
            async with aclosing(outputs):
                async for output in outputs:
                    yield _produced(output)

    async def abort(self, request_id: str) -> None:
        """See `Core`."""
        with _answering():
            await self._llm.abort(request_id)

    async def ended(self) -> None:
        """See `Core`."""
        assert self._llm.output_handler is not None, "it runs since `try_out`"
        await asyncio.wait([self._llm.output_handler])

    async def close(self) -> None:
        """See `Core`."""
        if not self._is_closed:
            self._is_closed = True
            await asyncio.to_thread(self._llm.shutdown)
            del self._llm  # whose end is noisy if it comes with that of the interpreter


class _GuardedMultiprocExecutor(MultiprocExecutor):
    """Is made in the engine's process, before it takes any memory."""

    def __init__(self, vllm_config: VllmConfig, *args: object, **kwargs: object) -> None:
        end_with_parent()
        super().__init__(vllm_config, *args, **kwargs)


class _GuardedUniProcExecutor(UniProcExecutor):
    """The same for a model that runs in the engine's process itself."""

    def __init__(self, vllm_config: VllmConfig, *args: object, **kwargs: object) -> None:
        end_with_parent()
        super().__init__(vllm_config, *args, **kwargs)


def _guarded(executor: type[Executor]) -> type[Executor]:
    guarded: dict[type[Executor], type[Executor]] = {
        MultiprocExecutor: _GuardedMultiprocExecutor,
        UniProcExecutor: _GuardedUniProcExecutor,
    }
    return guarded.get(executor, executor)


def _facts(llm: AsyncLLM) -> CoreFacts:
    config = llm.vllm_config
    cache, scheduler, parallel = config.cache_config, config.scheduler_config, config.parallel_config
    # vLLM adds up the blocks of all ranks.
    num_blocks = (cache.num_gpu_blocks or 0) // parallel.data_parallel_size
    return CoreFacts(
        max_context_length=config.model_config.max_model_len,
        vocab_size=config.model_config.get_vocab_size(),
        block_size=cache.block_size,
        num_blocks=num_blocks,
        max_num_seqs=scheduler.max_num_seqs,
        max_num_batched_tokens=scheduler.max_num_batched_tokens,
        data_parallel_size=parallel.data_parallel_size,
        sampling_defaults=config.model_config.get_diff_sampling_param(),
        kv_events=tuple(_sources(llm)) if cache.enable_prefix_caching else (),
    )


def _sources(llm: AsyncLLM) -> Iterator[KvEventSource]:
    for dp_rank, said in sorted(llm.get_kv_event_sources().items()):
        if not (said.endpoint.startswith("ipc://") or "*" in said.endpoint or "::" in said.endpoint):
            raise ConfigError(
                f"vLLM would publish its KV events to a listener at {said.endpoint}, and nobody would tell routers: "
                "give --kv-events-config an endpoint that it listens at, as tcp://*:5557, or leave it out"
            )
        yield KvEventSource(dp_rank, said.endpoint, said.replay_endpoint, said.topic)


def _produced(output: RequestOutput) -> Produced:
    [completion] = output.outputs
    return Produced(completion.token_ids, completion.finish_reason, output.num_cached_tokens, completion.logprobs)


@contextmanager
def _starting() -> Iterator[None]:
    """What vLLM says against a model or a setting is one line."""
    try:
        yield
    except DynamoError:
        raise
    except (ValueError, TypeError, OSError, RuntimeError) as error:
        log.debug("vLLM did not start", exc_info=True)
        raise ConfigError(f"vLLM did not start: {_line(error)}") from error


@contextmanager
def _answering() -> Iterator[None]:
    """vLLM's errors are ours."""
    try:
        yield
    except VLLMClientError as error:
        raise InvalidArgument(_line(error)) from error
    except GracefulHTTPError as error:
        raise Overloaded(_line(error)) from error
    except EngineDeadError as error:
        raise EngineShutdown("vLLM's processes are gone; its log says why") from error
    except EngineGenerateError as error:
        raise _cause(error.__cause__) from error


def _cause(error: BaseException | None) -> DynamoError:
    """What vLLM refuses without a class of its own for that is a value."""
    if isinstance(error, ValueError):
        return InvalidArgument(_line(error))
    return DynamoError(f"vLLM failed: {type(error).__name__}: {error}")


def _line(error: Exception) -> str:
    lines = (line.strip() for line in str(error).splitlines())
    return " ".join(itertools.islice(filter(None, lines), 3)) or type(error).__name__
