"""The loop. Owns steps, optimiser, schedule and checkpoints.

Knows no particular method and no metric. May import: methods and below.
"""
