"""Fine-tuning of encoder and tagging head with RAM's own recipe: a new bundle from labelled images."""
