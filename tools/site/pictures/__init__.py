"""The drawings of the documentation, one a file; ``python -m tools.site.pictures`` writes them."""
