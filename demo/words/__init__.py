"""Word lists, real and synthesised, each split into a training and a held-out part by `demo.splits`."""
