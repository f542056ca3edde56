"""Models to files, folders and the Hugging Face Hub, and back."""
