"""What voltana costs a vLLM engine."""
