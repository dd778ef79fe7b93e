"""Decisions as pure functions: no torch, no sockets, no clock."""
