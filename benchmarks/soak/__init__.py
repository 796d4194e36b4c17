"""The parts of bench_soak.py: clients that behave and clients that do not (raw), the load, the server."""
