"""Worker to worker: what makes several processes one broker."""
