"""Modules of the SDK that are imported by path: `config`, `image` and `service`."""

__all__: list[str] = []
