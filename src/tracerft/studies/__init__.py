"""The paper's experiments as commands. Owns their definitions and claims.

May import: api, config and below.
"""
