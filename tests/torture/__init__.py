"""A folder of everything that should never lie among films, and what its rows must say.

``python -m tests.torture FOLDER`` makes it.
"""
