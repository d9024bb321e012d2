"""LoRA and QLoRA training; takes its shape from DESIGN and comes with the tuning work."""
