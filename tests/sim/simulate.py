"""One run: a cluster starts, requests are sent, things go wrong, everything heals, and then the account is taken.

What must hold of every run, whatever went wrong in it:
- every request ended exactly once, with the right answer, a right part of it and an error, or an error;
- no host called an instance of whose removal it had been told, and no worker began a request twice;
- no producer was further ahead of its reader than the window of its stream;
- soon after all have healed, routers know what is in every worker's cache, within two seconds if only events were
  lost, doubled, late or of another start;
- once all have healed, a new request succeeds in time with each worker, and nothing of the old ones is left: no
  stream, no place in an engine, no count, no load;
- processes end when they are asked to, and leave no task, timer, connection, open port, key or watch.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from tests.sim import faults
from tests.sim.account import end_all, wrong_indexes, wrong_when_quiet
from tests.sim.cached import CachedEngine
from tests.sim.cluster import Caller, Cluster, Frontend, MakeDiscovery, MakeEngine, ready_cluster
from tests.sim.discovery import DiscoveryServer
from tests.sim.engine import SimEngine
from tests.sim.load import Outcome, Reference, check_bulk, check_call, check_http, send_bulk, send_call, send_http
from tests.sim.loop import Deadlock, Endless, Livelock, SimLoop, run
from tests.sim.scenario import FAULTS_UNTIL_S, Ask, BulkCall, Call, HttpRequest, Scenario, scenario_of

from dynamo.llm._kv_router.replicas import STALE_S
from dynamo.runtime._timeouts import StreamTimeouts

START_TIMEOUT_S = 30.0
#: From the end of the faults to the first request that must succeed: leases end, watches catch up, peers are found.
HEAL_S = 25.0
#: A request that is sent then succeeds within so long.
LIVE_WITHIN_S = 20.0
#: A request ends within so long after all has healed, even if its client waits for ever.
END_WITHIN_S = 120.0
QUIET_S = 15.0
#: Routers know what workers hold so soon after the last fault, if all faults were those of events.
CONVERGED_S = 2.0
#: Publishers fall silent while the air may still be bad: who missed the last event must hear of it nevertheless.
EVENTS_UNTIL_S = 15.0

#: How long an impatient caller waits for a first item, and for each later one.
IMPATIENT_S = 5.0, 3.0

LAST_ASK = Ask("are you there?", 9)
references: dict[MakeEngine, Reference] = {}
#: What the engine without a cache answers.
reference = references.setdefault(SimEngine, {})


@dataclass
class Result:
    """What became of a run."""

    seed: int
    digest: str = ""
    num_turns: int = 0
    virtual_s: float = 0.0
    wrongs: list[str] = field(default_factory=list)
    outcomes: dict[str, int] = field(default_factory=dict)
    tail: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Variant:
    """Parts of the simulation to replace, to see that it finds what is wrong with them."""

    make_engine: MakeEngine = SimEngine
    make_cached: MakeEngine = CachedEngine
    make_discovery: MakeDiscovery = DiscoveryServer

    def engine_of(self, scenario: Scenario) -> MakeEngine:
        return self.make_cached if scenario.has_cache and self.make_engine is SimEngine else self.make_engine


@dataclass(frozen=True)
class Expected:
    """What is answered if nothing goes wrong."""

    engine: type[SimEngine]
    reference: Reference


def simulate(scenario: Scenario | int, *, echo: bool = False, variant: Variant | None = None) -> Result:
    """Run a scenario, or that of a seed, and say what was wrong."""
    if isinstance(scenario, int):
        scenario = scenario_of(scenario)
    variant = variant or Variant()
    kind = CachedEngine if variant.engine_of(scenario) is variant.make_cached else SimEngine
    expected = Expected(kind, learn([request.ask for request in scenario.http_requests] + [LAST_ASK], kind))
    result = Result(scenario.seed)

    async def main(loop: SimLoop) -> None:
        simulation = Simulation(loop, scenario, variant, expected)
        try:
            await simulation.run()
        except TimeoutError as error:
            simulation.wrongs.append(f"not in time: {error}")
        finally:
            result.wrongs = simulation.wrongs + simulation.cluster.wrongs + loop.uncaught
            result.digest, result.tail = loop.trace.digest, loop.trace.tail()
            result.num_turns, result.virtual_s = loop.num_turns, loop.time()
            for outcome in simulation.outcomes:
                how = f"{outcome.how} {outcome.code}".strip()
                result.outcomes[how] = result.outcomes.get(how, 0) + 1

    try:
        run(main, scenario.seed, echo=echo)
    except (Deadlock, Livelock, Endless) as error:
        result.wrongs.append(repr(error))
    return result


class Simulation:
    """The story of one run."""

    def __init__(self, loop: SimLoop, scenario: Scenario, variant: Variant, expected: Expected) -> None:
        self.cluster = Cluster(
            loop, scenario.seed, make_engine=variant.engine_of(scenario), make_discovery=variant.make_discovery
        )
        self.wrongs: list[str] = []
        self.outcomes: list[Outcome] = []
        self._loop = loop
        self._scenario = scenario
        self._expected = expected
        self._frontends: list[Frontend] = []
        self._callers: list[Caller] = []

    async def run(self) -> None:
        await self._start()
        start_s = self._loop.time()
        tasks = [asyncio.create_task(self._request(start_s, one)) for one in self._scenario.http_requests]
        tasks += [asyncio.create_task(self._request(start_s, one)) for one in self._scenario.calls]
        tasks += [asyncio.create_task(self._request(start_s, one)) for one in self._scenario.bulk_calls]
        breaking = [asyncio.create_task(self._break(start_s, index)) for index in range(len(self._scenario.faults))]
        await asyncio.sleep(EVENTS_UNTIL_S)
        self.cluster.air.is_busy = False
        await asyncio.sleep(FAULTS_UNTIL_S - EVENTS_UNTIL_S)
        for task in breaking:
            task.cancel()
        await asyncio.gather(*breaking, return_exceptions=True)
        self.cluster.heal()
        while len(self.cluster.workers()) < self._scenario.num_workers:
            self.cluster.start_worker(self._scenario.pace_s, self._scenario.drain_s)
        await self._check_indexes()
        await self._check_liveness()
        late = (await asyncio.wait(tasks, timeout=END_WITHIN_S))[1] if tasks else set()
        for outcome in self.outcomes:
            if outcome.how == "running":
                self.wrongs.append(f"{outcome.name}: has not ended {END_WITHIN_S:g} s after all had healed")
        for task in late:
            task.cancel()
        for task in tasks:
            if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                raise error
        # What another router has told of its requests is forgotten late, if it died or could not be heard.
        await asyncio.sleep(STALE_S + QUIET_S if self._scenario.has_replica_sync else QUIET_S)
        self.wrongs += await wrong_when_quiet(self.cluster)
        if self._has_cache:
            self.wrongs += await wrong_indexes(self.cluster, are_quiet=True)
        self.wrongs += await end_all(self.cluster)

    async def _start(self) -> None:
        scenario, cluster = self._scenario, self.cluster
        for _ in range(scenario.num_workers):
            cluster.start_worker(scenario.pace_s, scenario.drain_s)
        self._frontends = [
            cluster.start_frontend(scenario.request_timeout_s, scenario.router) for _ in range(scenario.num_frontends)
        ]
        timeouts = StreamTimeouts(*IMPATIENT_S) if scenario.is_impatient else None
        self._callers = [cluster.start_caller(timeouts) for _ in range(scenario.num_callers)]
        async with asyncio.timeout(START_TIMEOUT_S):
            for process in cluster.processes:
                await process.wait_ready()

    async def _break(self, start_s: float, index: int) -> None:
        fault = self._scenario.faults[index]
        await asyncio.sleep(start_s + fault.at_s - self._loop.time())
        await faults.make(self.cluster, fault, self._scenario)

    async def _request(self, start_s: float, request: HttpRequest | Call | BulkCall) -> None:
        await asyncio.sleep(start_s + request.at_s - self._loop.time())
        if isinstance(request, HttpRequest):
            await self._http(self._frontends[request.frontend], request)
        elif isinstance(request, BulkCall):
            await self._bulk(self._callers[request.caller], request)
        else:
            await self._call(self._callers[request.caller], request)

    async def _http(self, frontend: Frontend, request: HttpRequest) -> Outcome | None:
        if not frontend.is_alive:
            return None
        outcome = self._begin(request.name)
        await send_http(frontend, request, outcome)
        expected, must_finish = self._expected.reference[request.ask], self._scenario.is_sheltered
        return self._note(outcome, check_http(request, outcome, expected, must_finish=must_finish))

    async def _call(self, caller: Caller, call: Call) -> Outcome | None:
        if not caller.is_alive:
            return None
        outcome = self._begin(call.name)
        await send_call(self.cluster, caller, call, outcome)
        return self._note(outcome, check_call(call, outcome, self._expected.engine))

    async def _bulk(self, caller: Caller, call: BulkCall) -> None:
        if caller.is_alive:
            outcome = self._begin(call.name)
            await send_bulk(self.cluster, caller, call, outcome)
            self._note(outcome, check_bulk(call, outcome))

    def _begin(self, name: str) -> Outcome:
        outcome = Outcome(name)
        self.outcomes.append(outcome)
        self._loop.note(f"{name} is sent")
        return outcome

    def _note(self, outcome: Outcome, wrongs: list[str]) -> Outcome:
        self._loop.note(f"{outcome.name} {outcome.how} {outcome.code}")
        self.wrongs += wrongs
        return outcome

    # The account.

    @property
    def _has_cache(self) -> bool:
        return self._expected.engine is CachedEngine

    async def _check_indexes(self) -> None:
        """Wait until all is well again, and see whether routers know the caches in time."""
        if self._has_cache:
            await asyncio.sleep(CONVERGED_S)
            if self._scenario.has_event_faults_only:
                self.wrongs += await wrong_indexes(self.cluster)
        await asyncio.sleep(HEAL_S)
        if self._has_cache:
            self.wrongs += await wrong_indexes(self.cluster)

    async def _check_liveness(self) -> None:
        """All is well again: whoever is there gets an answer."""
        last: list[asyncio.Task[Outcome | None]] = []
        for index, frontend in enumerate(self.cluster.frontends()):
            request = HttpRequest(f"last-http-{index}", 0.0, 0, LAST_ASK)
            last.append(asyncio.create_task(self._http(frontend, request)))
        for caller in self.cluster.callers():
            for number in range(len(self.cluster.workers())):
                call = Call(f"last-call-{caller.host}-{number}", 0.0, 0, (10, 11, 12), 9)
                last.append(asyncio.create_task(self._call(caller, call)))
        if not last:
            return
        await asyncio.wait(last, timeout=LIVE_WITHIN_S)
        for task in last:
            outcome = task.result() if task.done() else None
            if outcome is None:
                self.wrongs.append(f"a request after all had healed took more than {LIVE_WITHIN_S:g} s")
            elif outcome.how != "finished":
                self.wrongs.append(f"{outcome.name} {outcome.how} {outcome.code}, although all had healed")
        for caller in self.cluster.callers():  # each has asked every worker, in turn
            assert caller.client is not None
            if out := [id for id in caller.client.instance_ids() if caller.client.is_passed_over(id)]:
                self.wrongs.append(f"{caller.host} passes over {[f'{id:x}' for id in out]}, although all had healed")


def learn(asks: list[Ask], engine: type[SimEngine] = SimEngine) -> Reference:
    """Ask in a cluster in which nothing goes wrong, and return what the answers of an engine are."""
    known = references.setdefault(engine, {})
    unknown = [ask for ask in dict.fromkeys(asks) if ask not in known]
    if not unknown:
        return known

    async def main(loop: SimLoop) -> None:
        async with ready_cluster(loop, "reference", make_engine=engine) as cluster:
            [frontend] = cluster.frontends()
            for index, ask in enumerate(unknown):
                outcome = Outcome(f"reference-{index}")
                await send_http(frontend, HttpRequest(outcome.name, 0.0, 0, ask), outcome)
                assert outcome.how == "finished", f"{ask}: {outcome}"
                assert not outcome.wrongs, f"{ask}: {outcome}"
                known[ask] = outcome

    run(main, "reference")
    return known
