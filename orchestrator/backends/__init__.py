"""Serving backends: what each serves, its configuration, its command, its protocol."""
