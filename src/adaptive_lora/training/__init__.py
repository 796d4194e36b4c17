"""Offline training: data in, adapters out. Serving never imports this room."""
