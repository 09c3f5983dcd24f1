"""Guest images: their manifest, their check, their place on disk."""
