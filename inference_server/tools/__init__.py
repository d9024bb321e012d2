"""Tool calling: how a model writes calls, learned from its own chat template; reading them, and forcing them. Pure."""
