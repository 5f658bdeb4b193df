"""Vocabulary, prompts and the Chain of Causation: everything between strings and token ids."""
