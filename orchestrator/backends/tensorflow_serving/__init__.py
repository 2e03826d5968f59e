"""TensorFlow Serving as a backend."""
