"""Where steps run: a protocol, and child processes on this machine."""
