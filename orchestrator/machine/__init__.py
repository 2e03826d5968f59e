"""Describes this machine: CPUs, GPUs, packages, and the fingerprint for keys."""
