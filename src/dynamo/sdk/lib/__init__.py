"""Modules of the SDK that are imported by path; see `dynamo.sdk.lib.config`."""

__all__: list[str] = []
