"""The engine room: whatever turns prompts into tokens. Only this room imports vllm or torch while serving."""
