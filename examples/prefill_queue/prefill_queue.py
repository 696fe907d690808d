"""Prefill work in a queue: decode workers put it in, and prefill workers take it out when they are free.

The workers only pretend: there is no model, and what would be a KV cache is a number of blocks.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

from pydantic import BaseModel

from dynamo.runtime import DynamoError, QueueLimits
from dynamo.sdk import api, async_on_shutdown, async_on_start, depends, dynamo_context, dynamo_endpoint, service

logger = logging.getLogger(__name__)

QUEUE = "prefill"
BLOCK_SIZE = 4
#: A prefill worker that is not done by then has its job taken away; a few of them may try.
LIMITS = QueueLimits(jobs_max=1000, visibility_s=10.0, attempts_max=3)


class Prefill(BaseModel):
    """A job: what to prefill, and who waits for it."""

    request_id: str
    prompt: str
    decode_worker_id: int


class Prefilled(BaseModel):
    request_id: str
    prefill_worker_id: int
    num_blocks: int


@service(dynamo={"namespace": "prefill-queue"})
class PrefillQueue:
    """Holds the queue, unless it is on NATS: then it makes it there."""

    @async_on_start
    async def serve(self) -> None:
        runtime = dynamo_context["runtime"]
        await runtime.serve_work_queue(QUEUE, LIMITS)
        self.queue = await runtime.work_queue(QUEUE)

    @dynamo_endpoint()
    async def num_requests_waiting(self, request: None) -> int:
        """How many prompts are waiting, or being prefilled: when to start more prefill workers."""
        return await self.queue.size()


@service(dynamo={"namespace": "prefill-queue"})
class DecodeWorker:
    queue_server = depends(PrefillQueue)

    def __init__(self, prefill_timeout_s: float = 5.0) -> None:
        self.prefill_timeout_s = prefill_timeout_s
        self.waiting: dict[str, asyncio.Future[Prefilled]] = {}

    @async_on_start
    async def open_queue(self) -> None:
        self.queue = await dynamo_context["runtime"].work_queue(QUEUE)
        self.worker_id = dynamo_context["runtime"].lease.id

    @api
    async def generate(self, prompt: str, request_id: str) -> AsyncIterator[str]:
        """Have the prompt prefilled, then stream it again, word by word."""
        prefilled = await self.prefill(prompt, request_id)
        if prefilled is None:
            logger.info("request %s is prefilled here", request_id)
        else:
            logger.info("request %s: %d blocks were prefilled elsewhere", request_id, prefilled.num_blocks)
        for word in prompt.split():
            yield f"{word} "

    async def prefill(self, prompt: str, request_id: str) -> Prefilled | None:
        """Have it done by whoever is free; None if nobody was in time, or the queue is full or away."""
        done = self.waiting[request_id] = asyncio.get_running_loop().create_future()
        try:
            await self.queue.enqueue(Prefill(request_id=request_id, prompt=prompt, decode_worker_id=self.worker_id))
            async with asyncio.timeout(self.prefill_timeout_s):
                return await done
        except TimeoutError:
            why = f"nobody had done it within {self.prefill_timeout_s:g} s"
        except DynamoError as error:
            why = str(error)
        finally:
            del self.waiting[request_id]
        logger.warning("request %s was not prefilled elsewhere: %s", request_id, why)
        return None

    @dynamo_endpoint()
    async def prefilled(self, result: Prefilled) -> bool:
        """Hear from a prefill worker; False if nobody waits for it any more."""
        done = self.waiting.get(result.request_id)
        if done is None or done.done():
            return False
        done.set_result(result)
        return True


@service(dynamo={"namespace": "prefill-queue"})
class PrefillWorker:
    def __init__(self, blocks_per_s: float = 100.0) -> None:
        """A worker that pretends to be slower, such as 1 block a second, can be watched at work."""
        self.blocks_per_s = blocks_per_s

    @async_on_start
    async def start_working(self) -> None:
        runtime = dynamo_context["runtime"]
        self.worker_id = runtime.lease.id
        self.queue = await runtime.work_queue(QUEUE, Prefill)
        self.decode_workers = await runtime.endpoint("prefill-queue.DecodeWorker.prefilled").client()
        self.working = asyncio.create_task(self.work())

    async def work(self) -> None:
        """Do one job after the other, whenever there is one."""
        while True:
            try:
                job = await self.queue.dequeue(timeout_s=10.0)
                if job is None:
                    continue
                # The end of the block acknowledges the job. If it raises, or we die, another worker gets it.
                async with job:
                    await self.prefill(job.payload)
            except DynamoError as error:
                logger.warning("a job, or the queue, is lost; going on: %s", error)

    async def prefill(self, job: Prefill) -> None:
        """Pretend to: an engine would compute the KV cache of the prompt here, and hand it over."""
        num_blocks = len(job.prompt) // BLOCK_SIZE
        logger.info("prefilling request %s, %d blocks", job.request_id, num_blocks)
        await asyncio.sleep(num_blocks / self.blocks_per_s)
        result = Prefilled(request_id=job.request_id, prefill_worker_id=self.worker_id, num_blocks=num_blocks)
        async with await self.decode_workers.direct(result, job.decode_worker_id) as answer:
            async for _ in answer:
                pass

    @async_on_shutdown
    async def stop_working(self) -> None:
        self.working.cancel()
        await asyncio.wait([self.working])

    @dynamo_endpoint()
    async def id(self, request: None) -> int:
        """Who this is."""
        return self.worker_id
