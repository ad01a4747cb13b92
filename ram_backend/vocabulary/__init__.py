"""Tags, vocabularies, the label system and text embeddings."""
