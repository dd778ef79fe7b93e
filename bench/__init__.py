"""Side-by-side benchmarks, each one command: ratios, not seconds."""
