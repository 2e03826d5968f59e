"""TensorFlow and Keras: reading, checking, converting and running their models."""
