"""A small OpenAI server with a prefix cache, in place of vLLM or llama.cpp: `python -m uvicorn server:app --port 8001`.

It knows nothing of routing. Like a real one it is quick to begin an answer when it has seen the beginning of a
conversation before, and reports how much that was.
"""

from __future__ import annotations

import asyncio

from fastapi import FastAPI
from pydantic import BaseModel

SECONDS_PER_WORD = 0.0005

app = FastAPI()
seen: set[tuple[str, ...]] = set()


class Message(BaseModel):
    role: str
    content: str


class ChatRequest(BaseModel):
    model: str
    messages: list[Message]


@app.get("/v1/models")
async def models() -> dict[str, object]:
    return {"object": "list", "data": [{"id": "small", "object": "model", "created": 0, "owned_by": "me"}]}


@app.post("/v1/chat/completions")
async def chat(request: ChatRequest) -> dict[str, object]:
    turns = tuple(message.content for message in request.messages)
    cached_turns = max((n for n in range(len(turns) + 1) if turns[:n] in seen), default=0)
    seen.update(turns[: n + 1] for n in range(len(turns)))
    cached, total = (len(" ".join(some).split()) for some in (turns[:cached_turns], turns))
    await asyncio.sleep(SECONDS_PER_WORD * (total - cached))
    message = {"role": "assistant", "content": f"you said {len(turns)} things"}
    usage = {"prompt_tokens": total, "prompt_tokens_details": {"cached_tokens": cached}}
    return {"model": "small", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": usage}
