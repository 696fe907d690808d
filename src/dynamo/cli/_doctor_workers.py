"""Can the workers be called, and do those of one model agree?"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import suppress

from dynamo._core.address import EndpointId
from dynamo._core.context import Context
from dynamo._core.errors import DynamoError, Unauthorized, WorkerUnavailable
from dynamo._core.request_plane import RequestPlane, open_request_plane
from dynamo._core.request_plane._tcp_address import Peer, format_address, parse_address
from dynamo.cli._doctor_discovery import Seen
from dynamo.cli._doctor_finding import Finding, fail, ok, warn
from dynamo.llm._card_difference import difference
from dynamo.llm._kv_query import KV_QUERY
from dynamo.llm._model_card import ModelCard, ModelInput
from dynamo.llm._workers import ROUTES_TO

#: So many processes are called, and so many at a time; a process that is well answers at once.
CALLED_MAX, CALLS_MAX = 256, 32
CALL_TIMEOUT_S = 3.0
#: So many that are alike are named.
NAMED_MAX = 3
#: What no process serves: targets are counted from 1.
_NO_TARGET = "0"

_Worker = tuple[EndpointId, int]


async def check_reach(seen: Seen, environ: Mapping[str, str]) -> list[Finding]:
    """Call each process that serves something, for what none serves: whoever refuses that is there, and lets us in."""
    by_peer: dict[Peer, list[_Worker]] = defaultdict(list)
    findings = []
    for worker, record in seen.instances.items():
        address = next(iter(record.transport.values()), "")
        if address.startswith("inproc:"):
            continue
        try:
            by_peer[parse_address(address)[0]].append(worker)
        except DynamoError as error:
            findings.append(fail("workers", f"{name_of(worker)} cannot be called: {error.message}"))
    if not by_peer:
        return findings or [ok("workers", "none are registered")]
    plane = open_request_plane(environ.get("DYN_REQUEST_PLANE") or "tcp:", environ)
    try:
        called = list(by_peer.items())[:CALLED_MAX]
        slots = asyncio.Semaphore(CALLS_MAX)
        problems = await asyncio.gather(*(_problem(plane, peer, slots) for peer, _ in called))
    finally:
        await plane.close()
    for (_, workers), problem in zip(called, problems, strict=True):
        if problem:
            findings.append(fail("workers", f"{_names(workers)} cannot be called: {problem[0]}", problem[1]))
    num_well = len(called) - sum(map(bool, problems))
    rest = f" that were called, of {len(by_peer)}" if len(by_peer) > len(called) else ""
    served = len({endpoint for endpoint, _ in seen.instances})
    findings.append(ok("workers", f"processes that answer: {num_well} of {len(called)}{rest}; endpoints: {served}"))
    return findings


async def _problem(plane: RequestPlane, peer: Peer, slots: asyncio.Semaphore) -> tuple[str, str] | None:
    host = f"[{peer.host}]" if ":" in peer.host else peer.host
    address = format_address(f"{host}:{peer.port}" if peer.host else "", _NO_TARGET, peer.local_name)
    try:
        async with slots, asyncio.timeout(CALL_TIMEOUT_S):
            stream = await plane.call(address, b"", Context())
            try:
                await stream.batch()
            finally:
                with suppress(DynamoError):
                    await stream.aclose()
    except WorkerUnavailable:
        return None
    except Unauthorized as error:
        return error.message, "give all processes of the cluster the same token and certificates of one authority"
    except DynamoError as error:
        return error.message, "see whether it runs, and whether something between the machines refuses connections"
    except TimeoutError:
        return f"no answer within {CALL_TIMEOUT_S:g} s", "see whether it is stuck, or its machine is out of reach"
    return None


def check_models(seen: Seen) -> list[Finding]:
    """Compare what the workers of each model have registered."""
    by_model: dict[str, dict[_Worker, ModelCard]] = defaultdict(dict)
    for worker, card in seen.cards.items():
        by_model[card.display_name][worker] = card
    findings = [finding for model, cards in sorted(by_model.items()) for finding in _of_model(seen, model, cards)]
    served = {endpoint for endpoint, _ in seen.instances}
    for one in seen.registrations:
        if one.endpoint not in served:
            what = f"{one.kind.word} model {one.model} is registered at {one.endpoint}, which nobody serves"
            remedy = f"start its worker, or: llmctl http remove {one.kind.word} {one.model}"
            findings.append(warn("models", what, remedy))
    return findings or [ok("models", "none are registered" if not seen.registrations else "all that are registered")]


def _of_model(seen: Seen, model: str, cards: Mapping[_Worker, ModelCard]) -> list[Finding]:
    """What is to be said of one model: in what its workers differ, or how many there are."""
    check = f"model {model}"
    findings = list(_differences(check, cards))
    workers = {worker: card for worker, card in cards.items() if ROUTES_TO not in card.runtime_config}
    endpoints = sorted({str(endpoint) for endpoint, _ in workers})
    if len(endpoints) > 1:
        what = f"its workers have several endpoints: {', '.join(endpoints[:NAMED_MAX])}"
        remedy = "a frontend takes the first of them; give each frontend its own --namespace"
        findings.append(warn(check, what, remedy))
    for router in cards.keys() - workers.keys():
        if (target := str(cards[router].runtime_config[ROUTES_TO])) not in endpoints:
            what = f"the router {name_of(router)} sends its requests to {target}, where no worker has registered it"
            findings.append(warn(check, what, "wait a moment if they are starting or ending; else see their logs"))
    away = [worker for worker in cards if worker not in seen.instances]
    if away:
        what = f"{_names(away)} registered it, and {'do' if len(away) > 1 else 'does'} not serve its endpoint"
        findings.append(warn(check, what, "wait a moment if a worker is starting or ending; else see its log"))
    return findings or [ok(check, _shown(seen, workers, len(cards) - len(workers)))]


def _differences(check: str, cards: Mapping[_Worker, ModelCard]) -> Iterator[Finding]:
    """Compare each card with the one that most workers have."""
    [(most, _)] = Counter(card.mdc_sum for card in cards.values()).most_common(1)
    first, own = next((worker, card) for worker, card in cards.items() if card.mdc_sum == most)
    by_difference: dict[str, list[_Worker]] = defaultdict(list)
    for worker, card in cards.items():
        if said := difference(card, own, name_of(first)):
            by_difference[said].append(worker)
    for said, workers in by_difference.items():
        remedy = "start all workers of a model alike: a frontend takes those only that agree with the first"
        yield fail(check, f"{_names(workers)}: {said}", remedy)


def _shown(seen: Seen, cards: Mapping[_Worker, ModelCard], num_routers: int) -> str:
    card = next(iter(cards.values()))
    routers = f"; routers before them: {num_routers}" if num_routers else ""
    if card.model_input is not ModelInput.Tokens:
        return f"workers: {len(cards)}, which take {card.model_input.value}{routers}"
    publishing = {(at.namespace, at.component, id) for at, id in seen.instances if at.endpoint == KV_QUERY}
    told = sum((at.namespace, at.component, id) in publishing for at, id in cards)
    size = card.kv_cache_block_size
    return f"workers: {len(cards)}, with blocks of {size} tokens; {told} of them have told of KV blocks{routers}"


def name_of(worker: _Worker) -> str:
    """How an instance is written for people, as in the log of the worker."""
    return f"{worker[0]}/{worker[1]:x}"


def _names(workers: list[_Worker]) -> str:
    named = ", ".join(map(name_of, workers[:NAMED_MAX]))
    return f"{named} and {len(workers) - NAMED_MAX} more" if len(workers) > NAMED_MAX else named
