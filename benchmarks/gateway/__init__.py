"""The parts of bench_gateway: an upstream that costs little, a load generator, and the gateways compared."""
