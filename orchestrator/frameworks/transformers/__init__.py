"""Folders of Hugging Face Transformers, read without the library's own loader."""
