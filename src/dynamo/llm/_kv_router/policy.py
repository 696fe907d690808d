"""Policies of your own: how a worker is chosen, in a few lines of Python.

A policy says what a worker costs, and the cheapest is taken:

    def fewest_requests(candidate):
        return candidate.active_requests

or it takes one itself:

    def first_with_cache(candidates):
        return max(candidates, key=lambda candidate: candidate.overlap_blocks)

The name of the one parameter, `candidate` or `candidates`, says which of the two it is. An object with a method
`cost(candidate)` or `choose(candidates)` is a policy, too. A policy that fails, fails the request: it is not replaced
by another one behind your back.
"""

from __future__ import annotations

import importlib
import inspect
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable

from dynamo._core.errors import ConfigError, HandlerError
from dynamo.llm._kv_router.cost import Terms
from dynamo.llm._kv_router.load import Load
from dynamo.llm._kv_router.prompt import Prompt


@dataclass(frozen=True, slots=True)
class Candidate:
    """A worker that comes into question for a request, as policies see it."""

    worker_id: int
    dp_rank: int
    #: Blocks of the prompt in its cache.
    overlap_blocks: int
    #: Tokens that it has to compute already.
    active_prefill_tokens: int
    #: Blocks that it would hold with this request.
    decode_blocks: int
    #: Requests that it has.
    active_requests: int
    #: The request: its tokens, its blocks, and how many tokens there are in a block.
    num_tokens: int
    num_blocks: int
    block_size: int
    #: What its model card says of it.
    total_kv_blocks: int | None
    taints: frozenset[str]
    #: What it costs without a policy: see `KvRouterConfig`.
    cost: float


CostFunction: TypeAlias = Callable[[Candidate], float]
ChooseFunction: TypeAlias = Callable[[list[Candidate]], Candidate]


@runtime_checkable
class CostPolicy(Protocol):
    """Says what a worker costs."""

    def cost(self, candidate: Candidate) -> float: ...


@runtime_checkable
class ChoosePolicy(Protocol):
    """Takes one of several workers."""

    def choose(self, candidates: list[Candidate]) -> Candidate: ...


Policy: TypeAlias = CostFunction | ChooseFunction | CostPolicy | ChoosePolicy


class CustomPolicy:
    """A policy of somebody's, ready to be asked."""

    def __init__(self, policy: Policy) -> None:
        """Raises `ConfigError` for what is no policy."""
        self.name = getattr(policy, "__qualname__", type(policy).__name__)
        self._cost: CostFunction | None = None
        self._choose: ChooseFunction | None = None
        if isinstance(policy, CostPolicy):
            self._cost = policy.cost
        elif isinstance(policy, ChoosePolicy):
            self._choose = policy.choose
        elif (parameter := _parameter(policy)) == "candidate":
            self._cost = policy  # type: ignore[assignment]  # by the name of its parameter
        elif parameter == "candidates":
            self._choose = policy  # type: ignore[assignment]  # by the name of its parameter
        else:
            raise ConfigError(
                f"{self.name} is no routing policy: it must be a function of `candidate`, which returns a cost, or of "
                "`candidates`, which returns one of them, or an object with a method cost(candidate) or "
                "choose(candidates)",
                setting="policy",
            )

    @classmethod
    def load(cls, name: str) -> CustomPolicy:
        """Import a policy by its name, `module:function`. Modules in the working directory are found, too."""
        module_name, separator, attribute = name.partition(":")
        if not separator or not module_name or not attribute:
            raise ConfigError(f"policy is {name!r}; it is written module:function", setting="policy")
        place = str(Path.cwd())
        if place not in sys.path:
            sys.path.append(place)
        try:
            policy: Any = getattr(importlib.import_module(module_name), attribute)
        except (ImportError, AttributeError) as error:
            raise ConfigError(f"the routing policy {name!r} cannot be imported: {error}", setting="policy") from error
        return cls(policy() if isinstance(policy, type) else policy)

    def pick(self, prompt: Prompt, loads: list[Load], terms: Terms) -> tuple[int | None, list[float]]:
        """Return the position of the worker it takes, or None and what it says that each one costs.

        Raises `HandlerError`, which names the policy, if it fails.
        """
        candidates = _candidates(prompt, loads, terms)
        try:
            if self._cost is not None:
                costs = [float(self._cost(candidate)) for candidate in candidates]
                if not all(map(math.isfinite, costs)):
                    raise ValueError(f"it returned a cost that is not finite: {costs}")
                return None, costs
            assert self._choose is not None
            taken = self._choose(list(candidates))
            if taken not in candidates:
                raise ValueError(f"it returned {taken!r}, which is none of the candidates")
            return candidates.index(taken), terms.costs
        except Exception as error:
            raise HandlerError(
                f"the routing policy {self.name} failed: {error}", type_name=type(error).__name__
            ) from error


def _parameter(policy: object) -> str | None:
    """The name of a function's only required parameter."""
    if not callable(policy):
        return None
    try:
        parameters = inspect.signature(policy).parameters.values()
    except ValueError:
        return None
    required = [one.name for one in parameters if one.default is inspect.Parameter.empty]
    return required[0] if len(required) == 1 else None


def _candidates(prompt: Prompt, loads: list[Load], terms: Terms) -> list[Candidate]:
    return [
        Candidate(
            load.key.worker_id,
            load.key.dp_rank,
            terms.overlap_blocks[position],
            terms.active_prefill_tokens[position],
            terms.decode_blocks[position],
            terms.num_requests[position],
            prompt.num_tokens,
            prompt.num_blocks,
            prompt.block_size,
            load.facts.total_kv_blocks,
            load.facts.taints,
            terms.costs[position],
        )
        for position, load in enumerate(loads)
    ]
