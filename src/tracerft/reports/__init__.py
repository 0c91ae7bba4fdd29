"""Files to people. Owns record.json, tables, figures and the HTML page.

Reads files only; never runs a model. May import: types, errors.
"""
