"""The documents that steps leave for one another: one file for each, with its writer and its strict reader."""
