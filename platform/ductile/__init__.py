"""Ductile: can a language model still learn after it was pushed too hard?"""

__version__ = "0.1.0"
