import asyncio

from pydantic import BaseModel

from dynamo.runtime import DistributedRuntime, dynamo_worker


# These could also be imported from a shared file/definition
class RequestType(BaseModel):
    text: str


class ResponseType(BaseModel):
    text: str


@dynamo_worker()
async def client_worker(runtime: DistributedRuntime):
    # Get a client to the worker endpoint from the distributed runtime
    client = await runtime.namespace("your_namespace").component("YourWorker").endpoint("generate").client()

    # Create a request
    request = RequestType(text="Hello, Dynamo!")

    # Call the dynamo endpoint exposed by the worker
    responses = await client.generate(request.model_dump_json())
    async for response in responses:
        print(response)


if __name__ == "__main__":
    asyncio.run(client_worker())
