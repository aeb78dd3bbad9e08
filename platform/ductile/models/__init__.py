"""What answers: base models built from scratch, Hugging Face checkpoints, and policies composed of several models."""
