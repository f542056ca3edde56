"""Files on disk: written all or nothing, read defensively."""
