"""The frontend with the engine that echoes."""

from engines import EchoEngine, Frontend

Frontend.link(EchoEngine)
