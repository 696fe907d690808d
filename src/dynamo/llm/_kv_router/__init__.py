"""KV-aware routing: a request goes where its prompt's KV cache already is, unless that worker has too much to do."""
