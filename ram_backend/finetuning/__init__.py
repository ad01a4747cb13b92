"""Fine-tuning of encoder and head with RAM's own recipe: a new bundle."""
