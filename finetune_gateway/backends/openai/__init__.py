"""OpenAI's fine-tuning contract, at any host that speaks it."""
