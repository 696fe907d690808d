"""Loading a model: from a directory, or from the hub by its name.

Weights are read from safetensors only, and code that comes with a model is never run.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field
from typing import cast

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging as library_logging

from dynamo._core.errors import ConfigError
from dynamo.llm._fetch import find_model
from dynamo.llm._messages import SamplingOptions
from dynamo.transformers._kv_cache import RowsCache

log = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
#: How much of the memory that is free once the weights are loaded the KV cache may take. Growing moves
#: one layer at a time to a larger buffer, so some must stay free.
KV_MEMORY_SHARE = 0.5
#: Tokens of the pass that tries a model out.
TRIAL_TOKENS = 8


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model, ready to run, and what an engine must know of it."""

    model: PreTrainedModel
    vocab_size: int
    max_context_length: int
    #: What the KV cache may hold, in tokens, padding included.
    kv_cells_max: int
    eos_token_ids: tuple[int, ...] = ()
    #: What the model's own generation_config.json says about sampling.
    defaults: SamplingOptions = field(default_factory=SamplingOptions)

    def __str__(self) -> str:
        dtype = str(self.model.dtype).removeprefix("torch.")
        model = (
            f"{type(self.model).__name__} on {self.model.device} in {dtype}, {self.model.num_parameters():,} parameters"
        )
        return f"{model}, context {self.max_context_length:,} tokens, KV cache up to {self.kv_cells_max:,} tokens"


def load_model(
    model_path: str, *, device: str = "auto", dtype: str = "auto", max_context_length: int | None = None
) -> LoadedModel:
    """Load a model and try it out with a few tokens."""
    if dtype != "auto" and dtype not in DTYPES:
        raise ConfigError(f"dtype={dtype!r} is not known: use auto, {', '.join(DTYPES)}")
    place = _device(device)
    model = _read(model_path, DTYPES.get(dtype, "auto"))
    torch.nn.Module.to(model, place)
    context = _context_length(model_path, model.config, max_context_length)
    cells = _memory_bytes(model.device) // max(1, _cell_bytes(model))
    if cells < context:
        log.warning(
            "memory for the KV cache allows for %d of the %d tokens of a context of %s", cells, context, model_path
        )
    return LoadedModel(
        model=model,
        vocab_size=_vocab_size(model),
        max_context_length=min(context, cells),
        kv_cells_max=cells,
        eos_token_ids=_eos_token_ids(model.generation_config),
        defaults=_defaults(model.generation_config),
    )


def _read(model_path: str, dtype: torch.dtype | str) -> PreTrainedModel:
    directory = find_model(model_path)
    library_logging.disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(directory, trust_remote_code=False)
        loaded = AutoModelForCausalLM.from_pretrained(
            directory,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ConfigError(f"cannot load the model in {str(directory)!r}: {_first_line(error)}") from error
    model, report = cast("tuple[PreTrainedModel, dict[str, set[str]]]", loaded)
    if missing := sorted(report["missing_keys"]):
        # The library would go on with random numbers in their place.
        raise ConfigError(f"the weights in {str(directory)!r} lack {len(missing)} tensors, {missing[0]} among them")
    return model


def _device(name: str) -> torch.device:
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was built for the device
        raise ConfigError(f"device {name!r} cannot be used: {_first_line(error)}") from error
    return device


def _context_length(model_path: str, config: PreTrainedConfig, wanted: int | None) -> int:
    own: int | None = getattr(config.get_text_config(decoder=True), "max_position_embeddings", None)
    limit = wanted or own
    if limit is None:
        raise ConfigError(
            f"config.json of {model_path!r} does not say how long a context may be: set max_context_length"
        )
    if own is not None and wanted is not None and wanted > own:
        raise ConfigError(f"max_context_length={wanted} is more than the {own} positions that {model_path!r} has")
    return limit


def _vocab_size(model: PreTrainedModel) -> int:
    weight = model.get_input_embeddings().weight
    assert isinstance(weight, torch.Tensor)
    return weight.shape[0]


@torch.inference_mode()
def _cell_bytes(model: PreTrainedModel) -> int:
    """Run a few tokens, which shows whether the model works here, and return the bytes of one in the cache."""
    cache = RowsCache(model.config)
    model(input_ids=torch.zeros((1, TRIAL_TOKENS), dtype=torch.long, device=model.device), past_key_values=cache)
    return cache.cell_bytes()


def _memory_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
    else:
        # What is free changes all the time; half of what there is should be.
        free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    return int(free * KV_MEMORY_SHARE)


def _eos_token_ids(config: GenerationConfig | None) -> tuple[int, ...]:
    named = config.eos_token_id if config else None
    if named is None:
        return ()
    return (named,) if isinstance(named, int) else tuple(named)


def _defaults(config: GenerationConfig | None) -> SamplingOptions:
    """Return what the file sets; recommendations on sampling count only where it asks to sample."""
    said = config.to_diff_dict() if config else {}
    names = ["repetition_penalty"]
    if said.get("do_sample"):
        names += ["temperature", "top_p", "top_k", "min_p"]
    return SamplingOptions(**{name: said[name] for name in names if said.get(name) is not None})


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
