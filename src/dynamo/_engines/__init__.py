"""What the engines share that needs both the SDK and `dynamo.llm`, which know nothing of each other."""
