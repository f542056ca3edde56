"""Files on disk: written all or nothing, read with suspicion."""
