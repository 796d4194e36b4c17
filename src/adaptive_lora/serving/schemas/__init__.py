"""What goes over the wire, as pydantic models: the edge where JSON becomes types."""
