"""The serving part of voltana, on no engine in particular."""
