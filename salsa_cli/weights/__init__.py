"""Weight files: formats, headers, shards, adapters and direct disk I/O."""
