"""Token counts, chat templates, and which tokens are trained."""
