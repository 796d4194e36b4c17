"""One module per domain; each exposes `example(rng, split) -> Example`."""
