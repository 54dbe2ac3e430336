"""Mixed load on `unshard serve`, with faults (`make load`)."""
