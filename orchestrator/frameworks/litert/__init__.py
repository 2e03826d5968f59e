"""LiteRT: reading, converting and running .tflite files."""
