"""Hugging Face Transformers folders, read without the library's own loader."""
