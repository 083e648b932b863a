"""What the documentation's site is built with beside mkdocs: hooks, pictures, checks."""
