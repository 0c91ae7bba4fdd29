"""Thin adapters for people with a trainer of their own. Owns the wiring, no mathematics.

Knows neither our loop nor our configuration. May import: averaging, losses, methods, models, types, errors.
Each module needs its library: `lightning` the extra of that name, `transformers` the extra ``hf``.
"""
