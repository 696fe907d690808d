"""Mechanism: bytes, time, sockets and indexes. Nothing here is stable API.

This package knows no model and no HTTP. Everything public is built on it, in `dynamo.runtime`
and above; import from there.
"""
