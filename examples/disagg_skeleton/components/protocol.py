"""What the services say to each other."""

from __future__ import annotations

from pydantic import BaseModel


class GeneralRequest(BaseModel):
    request_id: str
    prompt: str
    #: The share of the prompt that the chosen worker has in its cache already, by what the router knows.
    hit_rate: float = 0.0


class GeneralResponse(BaseModel):
    request_id: str
    text: str


class Prefilled(BaseModel):
    request_id: str
    #: Who did it.
    host: str
