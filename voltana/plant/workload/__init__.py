"""Request traces: arrivals, length distributions, replay of recorded traces."""
