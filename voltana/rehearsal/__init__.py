"""A rehearsal: production's own processes against engines and boards that behave like the plant.

docs/rehearsal.md has the picture of who runs and which clock each of them reads.
"""
