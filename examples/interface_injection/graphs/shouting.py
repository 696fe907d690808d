"""The frontend with the engine that shouts."""

from engines import Frontend, ShoutingEngine

Frontend.link(ShoutingEngine)
