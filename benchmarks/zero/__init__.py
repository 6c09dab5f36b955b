"""What the benchmark of exit zero chooses Speeds by."""
