"""The update server: registry, firmware store, update service, listener, journal and logs.

`app` puts them together. The service decides and remembers, and knows no sockets; the listener carries connections and
knows no files. Everything that blocks for long (reading firmware, committing rows, writing session logs) happens beside
the loop.
"""
