"""Where code for earlier releases imports from; new code imports from `dynamo.sdk`."""

__all__: list[str] = []
