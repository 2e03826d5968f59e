"""LiteRT: reading, making and running .tflite files."""
