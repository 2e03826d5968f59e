"""Serving backends: formats, configuration, command and protocol of each."""
