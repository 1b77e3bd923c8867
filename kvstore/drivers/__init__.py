"""The only impure room: clocks, threads, disks."""
