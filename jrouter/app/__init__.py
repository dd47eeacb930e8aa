"""What people touch: the command line, the pages, the service. Each reads or writes; none computes what a log says."""
