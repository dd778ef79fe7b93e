"""OpenAI-compatible HTTP: requests in, answers of a running pipeline out."""
