"""A vLLM that a launch may start, without a model."""
