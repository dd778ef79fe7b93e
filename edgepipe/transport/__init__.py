"""Frames between processes: in-process and gRPC behind one Link. Never imports torch."""
