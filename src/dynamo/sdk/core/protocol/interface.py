"""What code for earlier releases imports from here; new code imports it from `dynamo.sdk`."""

from dynamo.sdk._endpoints import DynamoTransport
from dynamo.sdk._interface import AbstractService

__all__ = ["AbstractService", "DynamoTransport"]
