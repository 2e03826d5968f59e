"""The documents that steps write for other steps: one file for each, with a writer and a strict reader."""
