"""The graph that stays up: frontend, processor and router. Workers join it from commands of their own."""

from __future__ import annotations

from components.frontend import Frontend
from components.processor import Processor
from components.router import Router

Frontend.link(Processor).link(Router)
