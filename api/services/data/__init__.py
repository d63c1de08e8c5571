"""Data sets: their records, uploads and manifests."""
