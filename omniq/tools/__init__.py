"""Tools for operators, run as `python -m omniq.tools.NAME`; they only read."""
