"""A router between prefill and decode servers that speaks SGLang's own protocol."""
