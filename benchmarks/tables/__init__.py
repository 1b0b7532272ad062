"""Tables of the pages, each made of records of the benchmarks."""
