"""Control analysis: the plant and every controller as linear systems of python-control."""
