"""The agent as a service of its machine: what is installed, where, and what became of it."""
