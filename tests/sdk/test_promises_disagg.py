"""The documented disaggregation: a decode worker that decides, per request, who does the prefill."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.sdk.project import Project

WORKERS = """
from dynamo.sdk import async_on_start, dynamo_context, dynamo_endpoint, service

@service(
    dynamo={
        "namespace": "your_namespace",
    },
)
class DecodeWorker:
    def __init__(self, do_remote_prefill=True):
        self.runtime = dynamo_context["runtime"]

        # Whether the decode worker should call a separate Prefill worker or not
        self.do_remote_prefill = do_remote_prefill

    @async_on_start
    async def connect(self):
        # Initialize client to PrefillWorker
        self.prefill_client = await (
            self.runtime
                .namespace("your_namespace")
                .component("PrefillWorker")
                .endpoint("generate")
                .client()
        )

    @dynamo_endpoint()
    async def generate(self, request):
        prefilled_by = "itself"
        if self.do_remote_prefill:
            # Forward the request to the prefill worker
            prefill_response = await self.prefill_client.generate(request)
            async for response in prefill_response:
                prefilled_by = response.data()["by"]

        for token in request["prompt"].split():
            yield f"{token} after a prefill by {prefilled_by}"

    @dynamo_endpoint()
    async def wait_for_prefill_workers(self, request):
        await self.prefill_client.wait_for_instances(request, timeout_s=60)

@service(
    dynamo={
        "namespace": "your_namespace",
    },
)
class PrefillWorker:
    def __init__(self):
        self.worker_id = dynamo_context["worker_id"]

    @dynamo_endpoint()
    async def generate(self, request):
        yield {"by": f"prefill worker {self.worker_id}"}
"""


@pytest.fixture
async def project(tmp_path: Path) -> AsyncIterator[Project]:
    async with Project(tmp_path) as project:
        project.write(workers=WORKERS)
        yield project


async def test_a_decode_worker_has_its_prefill_done_by_a_prefill_worker(project: Project) -> None:
    await project.serve("workers:PrefillWorker")
    await project.serve("workers:DecodeWorker")
    answers = await project.call("your_namespace.DecodeWorker.generate", {"prompt": "a b"})
    assert answers == ["a after a prefill by prefill worker 1", "b after a prefill by prefill worker 1"]


async def test_a_decode_worker_that_prefills_itself_needs_no_prefill_worker(project: Project) -> None:
    await project.serve("workers:DecodeWorker", "--DecodeWorker.do_remote_prefill=false")
    answers = await project.call("your_namespace.DecodeWorker.generate", {"prompt": "a"})
    assert answers == ["a after a prefill by itself"]


async def test_a_prefill_worker_may_come_later_and_more_of_them_too(project: Project) -> None:
    await project.serve("workers:DecodeWorker")
    with pytest.raises(Exception, match="your_namespace/PrefillWorker/generate"):
        await project.call("your_namespace.DecodeWorker.generate", {"prompt": "a"})
    await project.serve("workers:PrefillWorker", "--PrefillWorker.ServiceArgs.workers=2")
    await project.call("your_namespace.DecodeWorker.wait_for_prefill_workers", 2)
    answers = await project.call("your_namespace.DecodeWorker.generate", {"prompt": "a"})
    assert str(answers[0]).startswith("a after a prefill by prefill worker")
