"""Modules of the SDK that are imported by path: `config`, `decorators`, `image` and `service`."""

__all__: list[str] = []
