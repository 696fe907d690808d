"""`dynamo route`: the routers of the frontend in front of OpenAI servers that know nothing of us."""
