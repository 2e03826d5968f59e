"""What is missing on this machine, and what that affects."""
