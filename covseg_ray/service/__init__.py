"""The HTTP endpoint and its client: no Ray, no storage; a model comes in as a function."""
