"""Anything to `Embeddings`. Owns encoders, the zero-shot classifier and weight files.

Knows no data and no loss. May import: types, errors.
"""
