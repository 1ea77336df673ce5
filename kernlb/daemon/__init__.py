"""The daemon: checks and operators move the pools, and one worker thread at a time makes the kernel follow."""
