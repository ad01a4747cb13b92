"""Run by torchrun: fine-tunes a small bundle of a folder, and the first process saves what has learned."""

import os
import sys
from pathlib import Path

import torch
from finetuning import small

if __name__ == "__main__":
    folder, kind = Path(sys.argv[1]), sys.argv[2]
    torch.set_num_threads(1)
    options = small.options(epochs=1, batch=2, learning_rate=2e-5)
    learned, _ = small.run(folder, kind, folder / "together" / kind, options, captions=True, clip=small.clip())
    if os.environ["RANK"] == "0":
        torch.save(learned, folder / f"{kind}.pt")
