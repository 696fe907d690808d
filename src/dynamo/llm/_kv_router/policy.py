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

import inspect
import logging
import math
import reprlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, SupportsFloat, TypeAlias, runtime_checkable

from dynamo._core.errors import ConfigError, HandlerError
from dynamo._core.stability import beta
from dynamo.llm._kv_faults import TELL_EVERY_S
from dynamo.llm._kv_router.cost import Terms
from dynamo.llm._kv_router.load import Load
from dynamo.llm._kv_router.policy_loading import import_policy
from dynamo.llm._kv_router.policy_place import defined_at, place_of, said_by
from dynamo.llm._kv_router.prompt import Prompt

logger = logging.getLogger(__name__)

#: So many classes of exceptions of a policy are told apart.
KINDS_MAX = 32
_REPR = reprlib.Repr()
_REPR.maxother = 100


@beta(since="0.1")
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

    def cost(self, candidate: Candidate) -> float:
        """Return what it would cost to send the request there: a finite number; the lowest is taken."""
        ...


@runtime_checkable
class ChoosePolicy(Protocol):
    """Takes one of several workers."""

    def choose(self, candidates: list[Candidate]) -> Candidate:
        """Return one of these."""
        ...


Policy: TypeAlias = CostFunction | ChooseFunction | CostPolicy | ChoosePolicy


class WrongAnswer(Exception):
    """What a policy returned is no cost, or none of the candidates."""


class CustomPolicy:
    """A policy of somebody's, ready to be asked."""

    def __init__(self, policy: object, name: str | None = None) -> None:
        """Raises `ConfigError` for what is no policy."""
        self.name: str = name or str(getattr(policy, "__qualname__", type(policy).__name__))
        self._cost: CostFunction | None = None
        self._choose: ChooseFunction | None = None
        if isinstance(policy, CostPolicy) and _takes_one(policy.cost):
            self._cost = policy.cost
        elif isinstance(policy, ChoosePolicy) and _takes_one(policy.choose):
            self._choose = policy.choose
        elif (parameter := _parameter(policy)) == "candidate":
            self._cost = policy  # type: ignore[assignment]  # by the name of its parameter
        elif parameter == "candidates":
            self._choose = policy  # type: ignore[assignment]  # by the name of its parameter
        self._defined_at = defined_at(self._cost or self._choose or policy)
        if self._cost is None and self._choose is None:
            raise self._wrong(
                "it must be a function of `candidate`, which returns a cost, or of `candidates`, which returns one of "
                "them, or an object with a method cost(candidate) or choose(candidates)"
            )
        if inspect.iscoroutinefunction(self._cost or self._choose):
            raise self._wrong("it is async, and a policy must say at once what it thinks: make it a plain function")
        # How often it failed, by the class of the exception, and when each may be told again.
        self._failures: Counter[str] = Counter()
        self._tell_at: dict[str, float] = {}

    @classmethod
    def load(cls, name: str) -> CustomPolicy:
        """Import a policy by its name, `MODULE:NAME`. Raises `ConfigError`, which says what to do."""
        return cls(import_policy(name), name)

    def pick(self, prompt: Prompt, loads: list[Load], terms: Terms, now: float) -> tuple[int | None, list[float]]:
        """Return the position of the worker it takes, or None and what it says that each one costs.

        Raises `HandlerError`, which names the policy, if it fails. The log tells where and why, once a minute for
        each class of exception.
        """
        candidates = _candidates(prompt, loads, terms)
        try:
            if self._cost is not None:
                cost = self._cost
                return None, [_checked_cost(cost(candidate)) for candidate in candidates]
            assert self._choose is not None
            taken = self._choose(list(candidates))
            if taken not in candidates:
                raise WrongAnswer(f"it returned {_REPR.repr(taken)}, which is none of the candidates")
            return candidates.index(taken), terms.costs
        except (Exception, SystemExit) as error:  # whatever somebody's code does; Ctrl-C is none of its doing
            raise self._failed(error, now) from error

    def _failed(self, error: BaseException, now: float) -> HandlerError:
        kind = type(error).__name__
        if isinstance(error, WrongAnswer):  # it comes from the whole policy
            place, said = self._defined_at, str(error)
        else:
            place, said = place_of(error, outside=(__file__,)) or self._defined_at, said_by(error)
        place = place or "not in Python"
        if len(self._failures) >= KINDS_MAX and kind not in self._failures:
            kind = "others"
        self._failures[kind] += 1
        if now >= self._tell_at.get(kind, now):
            self._tell_at[kind] = now + TELL_EVERY_S
            logger.error(
                "the routing policy %s failed (%s): %s (%s, %d so far; each such request gets an error)",
                self.name, place, said, kind, self._failures[kind],
            )  # fmt: skip
        return HandlerError(f"the routing policy {self.name} failed ({place}): {said}", type_name=type(error).__name__)

    def _wrong(self, why: str) -> ConfigError:
        place = "" if self._defined_at is None else f" ({self._defined_at})"
        return ConfigError(f"{self.name}{place} is no routing policy: {why}", setting="policy")


def _checked_cost(cost: object) -> float:
    """Return a cost as a float. Raises `WrongAnswer` for what is none; numbers of other libraries are some."""
    number = cost if type(cost) is float else float(cost) if isinstance(cost, SupportsFloat) else math.nan
    if not math.isfinite(number):
        raise WrongAnswer(f"it returned {_REPR.repr(cost)}, and a cost is a finite number")
    return number


def _takes_one(method: object) -> bool:
    """Whether this can be called with one argument, as far as can be known."""
    if not callable(method):
        return False
    try:
        inspect.signature(method).bind(None)
    except TypeError:
        return False
    except ValueError:  # it tells nobody
        return True
    return True


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
