"""``python -m mathsft``, for torchrun: ``torchrun --nproc_per_node 8 -m mathsft sft …``."""

from mathsft.cli import main

if __name__ == "__main__":
    main()
