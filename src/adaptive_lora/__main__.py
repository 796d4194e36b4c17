"""`python -m adaptive_lora` is the command `adaptive-lora`."""

from adaptive_lora.cli import main

if __name__ == "__main__":
    main()
