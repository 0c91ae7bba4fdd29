"""The command. Owns options, terminal output and exit codes; one module a command.

Results go to stdout, everything else to stderr. May import everything, torch only inside functions.
"""
