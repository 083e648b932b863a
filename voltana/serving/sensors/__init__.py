"""Where an agent's measured iterations come from: the plugin's rings, or ForwardPassMetrics."""
