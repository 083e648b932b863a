"""Check suites and Hypothesis strategies for your own components; needs no pytest."""
