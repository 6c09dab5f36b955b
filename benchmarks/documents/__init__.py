"""What README.md and docs/performance.md say in figures, from the result files of every processor family."""
