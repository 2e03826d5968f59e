"""OpenVINO: ONNX models on mlo's own server, with a session of OpenVINO."""
