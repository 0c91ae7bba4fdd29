"""Models to predictions, predictions to metrics. Owns both halves, in that order.

Knows no training. May import: methods and below.
"""
