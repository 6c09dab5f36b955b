"""What the benchmarks of exit zero share: a task with its adopted model, and rules to choose Speeds by."""
