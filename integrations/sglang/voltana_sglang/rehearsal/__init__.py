"""A virtual SGLang for rehearsals: its protocol and its ring, around the plant's scheduling.

docs/rehearsal.md; the engine itself is `voltana.rehearsal.engine`.
"""
