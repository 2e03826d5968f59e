"""TorchServe as a backend."""
