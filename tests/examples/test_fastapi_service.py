"""The fastapi_service example, as its README says it is run."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from tests.cli.serving import DEADLINE_S, Serving, environment_of, readme_commands

EXAMPLE = Path(__file__).parents[2] / "examples" / "fastapi_service"
README = (EXAMPLE / "README.md").read_text()


@pytest.fixture
async def shelf(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """The service of the README, with the text of the README on its shelf."""
    [arguments] = readme_commands(EXAMPLE, "dynamo serve")
    [[path, _, header, _, body]] = readme_commands(EXAMPLE, "curl -X PUT")
    environment = environment_of(tmp_path)
    async with await Serving.start(*arguments, "--port", "0", cwd=EXAMPLE, environment=environment) as serving:
        async with httpx.AsyncClient(base_url=await serving.ready(), timeout=DEADLINE_S) as client:
            name, _, value = header.partition(": ")
            response = await client.put(path.removeprefix("localhost:8000"), content=body, headers={name: value})
            assert response.status_code == 201, response.text
            yield client
        serving.interrupt()
        assert await serving.exit_status() == 0


async def test_an_endpoint_beside_the_routes_asks_a_worker(shelf: httpx.AsyncClient) -> None:
    [url] = re.findall(r"curl 'localhost:8000(\S+)'", README)
    response = await shelf.get(url)
    answer = response.json()
    assert answer.pop("worker_id") in (1, 2)
    assert answer == {"words": 4, "characters": 20}
    assert '{"words":4,"characters":20,"worker_id":1}' in README


async def test_a_streaming_endpoint_answers_as_the_readme_shows(shelf: httpx.AsyncClient) -> None:
    [url] = re.findall(r"curl -N 'localhost:8000(\S+)'", README)
    response = await shelf.get(url)
    assert response.text == "so\nmuch\ndepends\nupon\n"
    assert f"```\n{response.text}```" in README


async def test_the_middleware_is_around_routes_and_endpoints(shelf: httpx.AsyncClient) -> None:
    responses = [
        await shelf.put("/texts/other", json={"text": ""}),
        await shelf.get("/count", params={"name": "other"}),
        await shelf.get("/read", params={"name": "other"}),
        await shelf.get("/read", params={"name": "unknown"}),
    ]
    assert [response.status_code for response in responses] == [201, 200, 200, 404]
    assert {response.headers["X-Served-By"] for response in responses} == {"Shelf"}
    assert responses[-1].json() == {"detail": "there is no text 'unknown' on the shelf"}


async def test_the_documentation_of_the_application_has_routes_and_endpoints(shelf: httpx.AsyncClient) -> None:
    document = (await shelf.get("/openapi.json")).json()
    assert document["info"]["title"] == "Shelf"
    assert set(document["paths"]) == {"/texts/{name}", "/count", "/read"}
    answer = document["paths"]["/count"]["get"]["responses"]["200"]["content"]["application/json"]
    assert answer["schema"] == {"$ref": "#/components/schemas/Counts"}
    assert (await shelf.get("/docs")).status_code == 200
