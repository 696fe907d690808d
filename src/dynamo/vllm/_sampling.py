"""How a request says how to choose its tokens, in the words of vLLM's `SamplingParams`.

vLLM knows a prompt and what it generates from there. Of an answer that began at another worker and goes on here it
takes the beginning for prompt, which makes a difference to three settings. The repetition penalty counts the prompt,
too: it is exact. The frequency and the presence penalty do not: what they would subtract is a bias on those tokens,
which is exact for the one by frequency, and for the one by presence until such a token comes again, when it counts
twice. And a seed begins its row of chances anew: the row of another seed goes on, which follows from it and from how
far the answer is, or else the same chances would choose again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from xxhash import xxh3_64_intdigest

from dynamo._core.errors import InvalidArgument
from dynamo.llm._engine_request import num_prompt_tokens
from dynamo.llm._limits import LOGPROBS_MAX
from dynamo.llm._messages import PreprocessedRequest, SamplingOptions

#: With so little of the distribution left only the likeliest token is; vLLM does not take 0 for that.
TOP_P_MIN = 1e-6
#: vLLM's seeds are signed, and -1 is none.
_SEEDS = 1 << 63


def sampling_arguments(
    request: PreprocessedRequest, *, vocab_size: int, defaults: Mapping[str, object]
) -> dict[str, object]:
    """Return the arguments for `SamplingParams`. Raises `InvalidArgument` for what vLLM would not refuse by itself.

    `defaults` count where the request says nothing, and after them vLLM's own.
    """
    stop, options = request.stop_conditions, request.sampling_options
    if options.n != 1:
        raise InvalidArgument(f"n={options.n}: an engine gives one choice per request; send {options.n} requests")
    logprobs = request.output_options.logprobs
    if logprobs is not None and not 0 <= logprobs <= LOGPROBS_MAX:
        raise InvalidArgument(f"logprobs={logprobs} is out of range: use 0 to {LOGPROBS_MAX}", param="logprobs")
    eos = () if stop.ignore_eos else request.eos_token_ids
    arguments: dict[str, object] = {
        "max_tokens": stop.max_tokens,
        "min_tokens": stop.min_tokens if stop.max_tokens is None else min(stop.min_tokens, stop.max_tokens),
        "ignore_eos": stop.ignore_eos,
        # One that the model does not have would end the engine, which forbids them by index until `min_tokens`.
        "stop_token_ids": _unique(token for token in (*stop.stop_token_ids, *eos) if 0 <= token < vocab_size),
        "logprobs": logprobs,
    }
    for name in ("temperature", "top_p", "top_k", "min_p", "repetition_penalty"):
        value = getattr(options, name)
        if value is None:
            value = defaults.get(name)
        if value is not None:
            arguments[name] = value
    if arguments.get("top_p") == 0:
        arguments["top_p"] = TOP_P_MIN
    if options.presence_penalty is not None:
        arguments["presence_penalty"] = options.presence_penalty
    if options.frequency_penalty is not None:
        arguments["frequency_penalty"] = options.frequency_penalty
    resumed = request.token_ids[num_prompt_tokens(request) :]
    if options.seed is not None:
        arguments["seed"] = _seed(options.seed, len(resumed))
    if bias := _bias(resumed, options):
        arguments["logit_bias"] = bias
    return arguments


def _seed(seed: int, num_resumed: int) -> int:
    return (seed if not num_resumed else xxh3_64_intdigest(f"{seed} {num_resumed}".encode())) % _SEEDS


def _bias(resumed: Sequence[int], options: SamplingOptions) -> dict[int, float]:
    presence, frequency = options.presence_penalty or 0.0, options.frequency_penalty or 0.0
    if not presence and not frequency:
        return {}
    return {token_id: -(presence + frequency * count) for token_id, count in Counter(resumed).items()}


def _unique(token_ids: Iterable[int]) -> list[int]:
    return list(dict.fromkeys(token_ids))
