"""Networks that find objects and say where: their data, metrics and, one file each, architectures."""
