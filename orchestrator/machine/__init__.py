"""What this machine is: CPUs, GPUs, packages, and the fingerprint that goes into keys."""
