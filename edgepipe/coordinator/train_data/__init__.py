"""Training data: files become documents, documents tokens, tokens the examples of steps.

    files ──▶ documents ──▶ a part is held out ──▶ tokens, targets ──▶ rows or cut examples
    files     jsonl         division               tokens, turns       loading

Packing comes after the split, so that no text is on both sides of it.
"""
