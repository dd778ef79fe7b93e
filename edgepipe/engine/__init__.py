"""Engines run layers [first, end) of a model on one device."""
