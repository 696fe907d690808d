"""The services of the skeleton, one per module, and the graph that links them."""
