# protobuf builds the messages at import; what they hold is in open_inference.proto.
from typing import Any

def __getattr__(name: str) -> Any: ...
