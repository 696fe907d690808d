"""The KV router as a process of its own, for frontends and clients that share one index and one view of the load."""

from __future__ import annotations

__all__: list[str] = []
