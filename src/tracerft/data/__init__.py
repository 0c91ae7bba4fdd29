"""Files to `Batch`. Owns reading, order and per-sample randomness.

Knows no model and no loss. May import: types, errors.
"""
