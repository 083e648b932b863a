"""What voltana speaks with vLLM servers."""
