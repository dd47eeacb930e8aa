"""jrouter: learn from a biased log which LLM should answer each query."""
