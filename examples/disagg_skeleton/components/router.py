"""The router: which worker has most of a prompt in its cache already?

It only remembers which prompts it sent where. A real router is told by the workers what they hold.
"""

from __future__ import annotations

from collections import deque

from components.worker import DummyWorker
from dynamo.sdk import async_on_start, dynamo_context, dynamo_endpoint, service

#: How many prompts are remembered for each worker.
PROMPTS_MAX = 100


@service(dynamo={"namespace": "dynamo-demo"})
class Router:
    def __init__(self, worker_timeout_s: float = 5.0) -> None:
        self.worker_timeout_s = worker_timeout_s
        # By the id of the worker. Workers that are gone are forgotten.
        self.prompts: dict[int, deque[str]] = {}

    @async_on_start
    async def connect(self) -> None:
        namespace, component = DummyWorker.dynamo_address()
        runtime = dynamo_context["runtime"]
        self.workers = await runtime.namespace(namespace).component(component).endpoint("worker_generate").client()

    @dynamo_endpoint()
    async def check_hit_rate(self, prompt: str) -> str:
        """Choose a worker; answer `<id>_<rate>`, the rate being the share of the prompt that it has seen."""
        worker_ids = await self.workers.wait_for_instances(timeout_s=self.worker_timeout_s)
        self.prompts = {id: self.prompts.get(id, deque(maxlen=PROMPTS_MAX)) for id in worker_ids}
        # Of equals the one with the fewest prompts, so that they share the work.
        best = max(worker_ids, key=lambda id: (self.hit_rate(id, prompt), -len(self.prompts[id])))
        rate = self.hit_rate(best, prompt)
        self.prompts[best].append(prompt)
        return f"{best}_{rate:.2f}"

    def hit_rate(self, worker_id: int, prompt: str) -> float:
        known = max((common_length(prompt, seen) for seen in self.prompts[worker_id]), default=0)
        return known / max(1, len(prompt))


def common_length(one: str, other: str) -> int:
    """How many characters two texts begin with alike."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((index for index, (a, b) in pairs if a != b), min(len(one), len(other)))
