"""What the rpc benchmark sends, agreed between its server and its client."""

from __future__ import annotations

ENDPOINT = "bench.rpc.items"
#: With its index and its two keys an item is about 32 bytes of JSON or msgpack.
TEXT = "sixteen letters."
STREAM_ITEMS = 128
