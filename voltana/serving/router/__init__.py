"""A router between prefill and decode servers, whatever engine they run."""
