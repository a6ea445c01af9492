"""Contestants: programs that read the same backlog. Each is started with the arguments of `bench.peers.job`."""
