"""The FOTA protocol without I/O: S-records, firmware images, frames, and the two sessions.

Nothing here opens, sleeps, reads a clock or rolls dice. Bytes and times go in, bytes and events come out.
"""
