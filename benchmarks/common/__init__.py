"""What the benchmarks and the tests on a GPU share."""
