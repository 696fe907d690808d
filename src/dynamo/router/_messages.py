"""What clients ask the router for. Unknown fields of a newer client are ignored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

from dynamo._core.context import Context
from dynamo._core.errors import InvalidArgument
from dynamo._core.limits import REQUEST_ID_CHARS_MAX
from dynamo._core.stability import beta
from dynamo.llm._kv_router.router import NUM_TOKENS_MAX
from dynamo.llm._routing import Asked
from dynamo.llm._wishes import NO_WISHES, DpRank, RouterConfigOverride, Wishes

T = TypeVar("T", bound=msgspec.Struct)

RequestId = Annotated[str, Meta(max_length=REQUEST_ID_CHARS_MAX)]


@beta(since="0.1")
class Query(msgspec.Struct, frozen=True):
    """A prompt, and what is wanted of the router for it: what it reads of a `PreprocessedRequest`, and more."""

    token_ids: list[int]
    dp_rank: DpRank | None = None
    #: What makes equal tokens another prompt to a KV cache.
    cache_salt: str | None = None
    lora_name: str | None = None
    routing: Wishes = NO_WISHES
    router_config_override: RouterConfigOverride | None = None
    #: Book it under this name, until it is freed.
    request_id: RequestId | None = None
    #: Without a booking: take for granted that the prompt is sent to whoever is named.
    update_indexer: bool = False

    def asked(self, request: object, context: Context) -> Asked:
        """Return what a router is told of a request that it is to send itself."""
        return Asked.wishing(
            self.routing, request=request, context=context, token_ids=self.token_ids, lora_name=self.lora_name,
            cache_namespace=self.cache_salt, override=self.router_config_override, dp_rank=self.dp_rank,
        )  # fmt: skip

    def check_open(self) -> None:
        """Raise `InvalidArgument` if it names who is to take it: then there is nothing to be told."""
        if self.dp_rank is not None or self.routing.dp_rank is not None or self.routing.backend_instance_id is not None:
            raise InvalidArgument("the request names its worker or rank, and asks which is best: leave one of both out")


@beta(since="0.1")
class Named(msgspec.Struct, frozen=True):
    """A request that was booked."""

    request_id: RequestId
    #: With `note_tokens`: so many more were generated.
    num_tokens: Annotated[int, Meta(ge=0, le=NUM_TOKENS_MAX)] = 0


@beta(since="0.1")
class Recent(msgspec.Struct, frozen=True):
    """Which decisions are to be explained: that on one request, or the last ones."""

    request_id: RequestId | None = None
    limit: int = 20


def read_query(request: object, num_tokens_max: int = NUM_TOKENS_MAX) -> Query:
    """Read what was asked; a list is the tokens of a prompt. Raises `InvalidArgument`.

    A prompt that is too long for the workers is refused before anybody looks at its tokens: that takes its time, and
    others wait meanwhile.
    """
    given = {"token_ids": request} if isinstance(request, list) else request
    token_ids = given.get("token_ids") if isinstance(given, Mapping) else None
    if isinstance(token_ids, list | tuple) and len(token_ids) > num_tokens_max:
        raise InvalidArgument(
            f"the prompt has {len(token_ids)} tokens, and the workers take {num_tokens_max} at most: shorten it"
        )
    return read(given, Query)


def read(request: object, kind: type[T]) -> T:
    """Read a request that arrived as plain values. Raises `InvalidArgument` if it is no such one."""
    if not isinstance(request, Mapping):
        raise InvalidArgument(f"a request to the router is a mapping, not {type(request).__name__}")
    try:
        return msgspec.convert(request, kind)
    except msgspec.ValidationError as error:
        raise InvalidArgument(f"the router cannot read the request: {error}") from error
