"""Saving models to files, folders and the Hugging Face Hub, and loading them."""
