"""Floor 2: checkpoints of our own runs (runs.py) and Hugging Face folders (huggingface.py)."""
