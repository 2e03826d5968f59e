"""PyTorch: state dicts, TorchScript archives, exported programs."""
